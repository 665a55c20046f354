"""ConsisID's data: its preparation and loader functions, and its layout of files into samples and back."""

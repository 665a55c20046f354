"""`demo.py`: a page to try systems, made from what each says that it takes."""

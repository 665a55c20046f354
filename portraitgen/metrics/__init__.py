"""How good a picture, a face or a video is, and the report that says so."""

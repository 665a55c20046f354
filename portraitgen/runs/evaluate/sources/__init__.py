"""Where the clips to be graded come from: generate.py, or anybody's files."""

"""Raw videos and photos become shards: pure steps, one a file, put in a row by portraitgen.runs.prepare."""

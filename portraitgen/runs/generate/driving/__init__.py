"""What drives a generated clip: prepared clips, landmarks, a video, a picture or a sound."""

"""Faces in pictures: detection, tracking, landmarks drawn and measured."""

"""Trained networks at work on photos: files (`photos`), reading and restoring (`restorer`)."""

from s3e.inference.photos import read_photo, write_photo
from s3e.inference.restorer import Reading, Restorer

__all__ = ["Reading", "Restorer", "read_photo", "write_photo"]

"""Trained networks at work on any photo: files in and out (`photos`), reading and restoring
(`restorer`).
"""

from s3e.inference.photos import read_photo, write_photo
from s3e.inference.restorer import Reading, Restorer

__all__ = ["Reading", "Restorer", "read_photo", "write_photo"]

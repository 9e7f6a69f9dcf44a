"""Trained networks at work on any photo: weights (`bundle`), reading and restoring (`restorer`), tiles, files."""

from s3e.inference.restorer import Reading, Restorer

__all__ = ["Reading", "Restorer"]

"""S3E-Deblur: the library behind the notebooks (see README.md)."""

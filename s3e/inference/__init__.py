"""Trained networks at work on photos: files (`photos`), reading and restoring (`restorer`)."""

"""S3E-Deblur: the library behind the notebooks (see README.md). `s3e.Restorer` restores photos with trained weights."""

from typing import Any


def __getattr__(name: str) -> Any:
    """Load `Restorer` when it is asked for: it brings torch along, which the command line does not need."""
    if name == "Restorer":
        from s3e.inference import Restorer

        return Restorer
    raise AttributeError(f"module 's3e' has no attribute {name!r}")

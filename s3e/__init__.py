"""S3E-Deblur: the library behind the notebooks (see README.md).

`s3e.Restorer` restores photos with trained weights; `s3e.read_photo` and `s3e.write_photo` read and
write their files.
"""

from importlib import import_module
from typing import Any

_PLACES = {"Restorer": "restorer", "read_photo": "photos", "write_photo": "photos"}


def __getattr__(name: str) -> Any:
    """Load these when asked for: they bring torch along, which the command line does not need."""
    if name in _PLACES:
        return getattr(import_module(f"s3e.inference.{_PLACES[name]}"), name)
    raise AttributeError(f"module 's3e' has no attribute {name!r}")

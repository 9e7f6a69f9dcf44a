"""Stage table, freshness keys, run store and papermill: between notebooks only files travel."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from s3e.pipeline.opened import open_run

__all__ = ["open_run"]


def __getattr__(name: str) -> Any:
    """`open_run`, imported when asked for: the process of a notebook does not need it."""
    if name not in __all__:
        raise AttributeError(name)
    from s3e.pipeline import opened

    return opened.open_run

"""Stage graph, freshness keys, run store and papermill: between notebooks only files travel."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from s3e.pipeline.store import Run, open_run

__all__ = ["Run", "open_run"]


def __getattr__(name: str) -> Any:
    """`open_run` and `Run` of `s3e.pipeline.store`, imported when asked for: the process of a
    notebook needs neither.
    """
    if name not in __all__:
        raise AttributeError(name)
    from s3e.pipeline import store

    return getattr(store, name)

"""Stage graph, freshness keys, run store and papermill: between notebooks only files travel."""

from s3e.pipeline.store import Run, open_run

__all__ = ["Run", "open_run"]

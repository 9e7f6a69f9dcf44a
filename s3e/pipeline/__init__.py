"""Stage table, freshness keys, run store and papermill: between notebooks only files travel."""

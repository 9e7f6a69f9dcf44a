"""A caption becomes a tree of seven nodes: `tagger` (words), `parser` (rules), `tree` (labels)."""

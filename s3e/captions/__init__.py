"""A caption becomes a tree of seven nodes: `tagger` (words), `parser` (rules), `tree` (the tree and
the vocabularies).
"""

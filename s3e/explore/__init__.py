"""Interactive parts of notebook 09; each class has a `widget`, and works without a browser."""

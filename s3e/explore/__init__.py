"""Interactive parts of notebook 09 (`widgets`); each works without a browser, too."""

"""Figures and tables of the study: makers take frames and arrays and return a figure or a table."""

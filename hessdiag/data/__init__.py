"""Data sets, and the embedded digits."""

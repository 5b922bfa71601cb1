"""Metrics by name: what each needs and how it is read from a result."""

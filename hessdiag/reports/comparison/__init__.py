"""The comparison of two networks as text, JSON and plot."""

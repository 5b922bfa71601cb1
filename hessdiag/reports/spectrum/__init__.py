"""The spectrum report as text, JSON and plot."""

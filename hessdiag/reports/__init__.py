"""Reports as text, JSON and plots: pure functions of results."""

"""The sparsity report as text, JSON and plot."""

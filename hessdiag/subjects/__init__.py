"""A checkpoint with its network and data: what every diagnostic command looks at."""

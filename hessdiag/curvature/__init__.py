"""The heart: empirical risk, linearisation, decomposition."""

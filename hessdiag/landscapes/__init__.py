"""Loss and norms of G and N over a plane of parameters."""

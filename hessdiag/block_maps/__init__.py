"""Norms of the blocks of H, G and N over pairs of layers."""

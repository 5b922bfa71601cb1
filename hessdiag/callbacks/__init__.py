"""Curvature measured while a network is trained, in whatever loop that is.

Lightning and transformers are imported by the file of their callback alone.
"""

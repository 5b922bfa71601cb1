"""One file a loss: ``cross_entropy.py`` is ``--loss cross-entropy``."""

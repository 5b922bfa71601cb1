"""Forms of checkpoints, one a file: a new form is a new file here; see ``Format``."""

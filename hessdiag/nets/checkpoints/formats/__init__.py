"""Forms of checkpoints, one a file; see ``Format``. A new file here is all that a new form needs."""

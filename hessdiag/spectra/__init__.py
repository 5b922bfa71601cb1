"""Spectra of the parts: what is asked for, how it is planned and run, what is reported."""

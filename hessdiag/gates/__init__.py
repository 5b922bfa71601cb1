"""Sharpness metrics against limits, with verdicts that respect their uncertainty."""

"""Judges: each gives a verdict of 1, 0 or missing-with-the-reason on a prediction."""

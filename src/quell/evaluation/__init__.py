"""Denoisers, our own and others, on one test set."""

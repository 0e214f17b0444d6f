"""Compares denoisers of Quell and of others on one test set."""

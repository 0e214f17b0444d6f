"""`quell export` and `quell reproduce`."""

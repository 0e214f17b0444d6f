"""Quell's search service: a study file in, trials trained by worker processes, the best one out; imports `quell`."""

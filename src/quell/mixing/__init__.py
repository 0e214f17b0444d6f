"""Mixtures of speech and noise: random ones to train on, fixed ones to score on."""

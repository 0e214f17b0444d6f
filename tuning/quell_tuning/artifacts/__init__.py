"""Sounds and pictures of trials: where they are, which there are, how they are drawn."""

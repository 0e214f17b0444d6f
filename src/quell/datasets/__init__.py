"""Recordings that are not the user's own: public corpora, synthetic speech, noise and rooms."""

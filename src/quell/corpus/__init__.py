"""Turns folders of recordings into one decoded corpus."""

"""Folders of recordings to one decoded corpus."""

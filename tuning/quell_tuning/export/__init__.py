"""Exports a trial with its model card, and trains a trial again."""

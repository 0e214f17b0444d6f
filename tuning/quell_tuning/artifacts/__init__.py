"""Clips of trials to listen to and to look at: which ones, how they are drawn, and where they are stored."""

"""Processes that run trials, here and on Ray."""

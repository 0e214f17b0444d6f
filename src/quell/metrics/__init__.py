"""Metrics of denoised speech, computed without torch."""

"""Recordings through an exported denoiser."""

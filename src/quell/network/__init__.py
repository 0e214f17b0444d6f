"""The denoiser as a torch module."""

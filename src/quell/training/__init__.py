"""Training of one denoiser."""

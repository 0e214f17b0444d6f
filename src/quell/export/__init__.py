"""A denoiser as one file that runs elsewhere: written, checked, loaded, measured."""

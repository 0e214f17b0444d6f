"""Quell's denoiser: recordings in, a trained waveform-to-waveform denoiser out.

Data flows one way: audio -> corpus -> mixing -> denoiser -> scoring -> training -> export. Nothing here knows of a
search; `tuning` does. torch is imported by the modules that compute with it, so that reading sound, splitting a
corpus and computing PESQ or STOI do without it.
"""

__version__ = "0.1.0"

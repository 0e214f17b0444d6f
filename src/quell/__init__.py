"""Quell's denoiser: recordings in, a trained waveform-to-waveform denoiser out.

Data flows one way: audio -> corpus -> mixing -> denoiser -> scoring -> training -> export. Nothing here knows of a
search; `quell_tuning` does. torch is imported by the modules that compute with it, so that reading sound, splitting a
corpus and computing PESQ or STOI do without it.

To use a denoiser:

    import quell

    clean = quell.denoise(noisy, sample_rate)           # numpy, (T,) or (T, C); the same shape and rate come back
    model = quell.load("best.pt")                       # or best.onnx, instead of the denoiser that comes with Quell
    clean = quell.denoise(noisy, sample_rate, model)
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quell.inference.enhancement import denoise
    from quell.inference.pretrained import load

# onnxruntime (1.31) writes a device id and a database of events at its import, to be sent to its maker.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
__all__ = ["__version__", "denoise", "load"]


def __getattr__(name: str) -> Any:
    if name == "denoise":
        from quell.inference.enhancement import denoise

        return denoise
    if name == "load":
        from quell.inference.pretrained import load

        return load
    raise AttributeError(f"module 'quell' has no attribute {name!r}")

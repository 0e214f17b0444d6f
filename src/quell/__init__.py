"""Speech denoisers: trained on your own recordings, exported as one file, run on waveforms and files.

    import quell

    clean = quell.denoise(noisy, sample_rate)  # numpy, (T,) or (T, C); returned in the same shape, at the same rate
    model = quell.load("best.pt")  # or best.onnx, instead of the pretrained denoiser
    clean = quell.denoise(noisy, sample_rate, model, quell.DenoiseOptions(wet=0.9))

Packages, from the ground up: audio and network; corpus, datasets, metrics and export; audit, mixing and inference;
training and evaluation. None imports the search, `quell_tuning`. torch is imported only by modules that compute with
it: reading sound, splitting a corpus and PESQ work without it.
"""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from quell.errors import (
    AudioError,
    CheckpointError,
    CorpusError,
    DenoiserError,
    DownloadError,
    ExportError,
    LockError,
    PackageError,
    ProcessError,
    TrainingError,
)

if TYPE_CHECKING:
    from quell.export.exported_model import Model
    from quell.inference.jobs import DenoiseOptions
    from quell.inference.pretrained import load
    from quell.inference.waveform import denoise

# onnxruntime (1.31) writes a device id and a database of events at its import, to be sent to its maker.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def _use_one_thread() -> None:
    # torch's threads are not copied by a fork; a child that gives them work waits for ever.
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_use_one_thread)

__version__ = "0.1.0"
__all__ = [
    "AudioError",
    "CheckpointError",
    "CorpusError",
    "DenoiseOptions",
    "DenoiserError",
    "DownloadError",
    "ExportError",
    "LockError",
    "Model",
    "PackageError",
    "ProcessError",
    "TrainingError",
    "__version__",
    "denoise",
    "load",
]
# Imported at first use: they need numpy, most of them torch.
_MODULES = {
    "DenoiseOptions": "quell.inference.jobs",
    "Model": "quell.export.exported_model",
    "denoise": "quell.inference.waveform",
    "load": "quell.inference.pretrained",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'quell' has no attribute {name!r}")

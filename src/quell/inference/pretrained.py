"""The denoisers that come with the package, for whoever names no other."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from quell.errors import ExportError

if TYPE_CHECKING:
    from quell.export.exported_model import Model

FOLDER = Path(str(files("quell") / "models"))
# By sample rate in Hz. What a telephone passed has nothing above 4 kHz, which one of 16 kHz would expect.
FILES = {8_000: "quell-8k.pt", 16_000: "quell-16k.pt"}


def path(sample_rate: int) -> Path:
    """The one for recordings of a rate: the lowest that loses nothing of them, else the highest.

    Raises:
        ExportError: it is not there.
    """
    enough = [rate for rate in FILES if rate >= sample_rate]
    found = FOLDER / FILES[min(enough) if enough else max(FILES)]
    if not found.is_file():
        needed = "expected the denoiser that comes with Quell"
        raise ExportError(f"{found}: no such file, {needed}; install the package again, or name a model")
    return found


def paths() -> list[Path]:
    """All of them. Errors as `path`."""
    return [path(sample_rate) for sample_rate in FILES]


def load(model: Path | str | None = None, sample_rate: int = 16_000) -> Model:
    """An exported denoiser (TorchScript, or ONNX with onnxruntime installed), on the CPU.

    Args:
        model: its file; without one the denoiser that comes with Quell.
        sample_rate: Hz, of what it is for, where no file is given.

    Raises:
        ExportError: the file is missing or is not one of ours, or onnxruntime is not installed.
    """
    from quell.export import exported_model as models

    return models.load(path(sample_rate) if model is None else model)


@lru_cache(maxsize=len(FILES))
def _kept(file: Path) -> Model:
    return load(file)


def fitting(sample_rate: int) -> Model:
    """The one for recordings of a rate, loaded once. Errors as `path`."""
    return _kept(path(sample_rate))

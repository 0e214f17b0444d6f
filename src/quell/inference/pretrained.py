"""The pretrained denoisers that come with the package, one for each sample rate."""

from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from quell.errors import ExportError

if TYPE_CHECKING:
    from quell.export.exported_model import Model

FOLDER = Path(str(files("quell") / "models"))
# By sample rate in Hz. Telephone speech has nothing above 4 kHz, where a denoiser of 16 kHz expects some.
FILES = {8_000: "quell-8k.pt", 16_000: "quell-16k.pt"}


def path(sample_rate: int) -> Path:
    """The file for recordings of a rate: of the lowest rate that keeps their whole band, else of the highest.

    Raises ExportError if the file is missing.
    """
    enough = [rate for rate in FILES if rate >= sample_rate]
    file = FOLDER / FILES[min(enough) if enough else max(FILES)]
    if not file.is_file():
        needed = "expected the denoiser that comes with Quell"
        raise ExportError(f"{file}: no such file, {needed}; install the package again, or name a model")
    return file


def paths() -> list[Path]:
    """All files. Errors as `path`."""
    return [path(sample_rate) for sample_rate in FILES]


def load(model: Path | str | None = None, sample_rate: int = 16_000) -> "Model":
    """An exported denoiser (TorchScript, or ONNX with onnxruntime installed), on the CPU.

    Args:
        model: its file; without one, the pretrained denoiser for `sample_rate`.
        sample_rate: Hz, of the recordings.

    Raises:
        ExportError: the file is missing or was not written by `quell export`, or onnxruntime is not installed.
    """
    from quell.export import exported_model as models

    return models.load(path(sample_rate) if model is None else model)


_loaded = lru_cache(maxsize=len(FILES))(load)


def fitting(sample_rate: int) -> "Model":
    """The denoiser for recordings of a rate, loaded once. Errors as `path`."""
    return _loaded(path(sample_rate))

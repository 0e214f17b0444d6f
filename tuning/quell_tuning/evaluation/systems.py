"""The systems that `quell evaluate` compares: exported and included models, and third-party ones."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quell.audio import FloatArray
from quell.errors import ExportError
from quell.evaluation import baselines
from quell.evaluation.baselines import System
from quell.evaluation.external_models import RemoteSystem
from quell.export.exported_model import Model
from quell.export.model_process import RemoteModel, load
from quell.inference import pretrained
from quell.inference.waveform import denoise
from quell_tuning.errors import UsageError

SHIPPED = "quell"  # the argument that means the included models


@dataclass(frozen=True)
class NamedSystem:
    """A system with its name in tables, and its model if it is one of Quell's."""

    name: str
    system: System
    model: Model | None = None


@dataclass(frozen=True)
class RemoteDenoiser:
    """A file made by `quell export` as a system for any sample rate; its program runs in another process."""

    model: RemoteModel

    def __call__(self, samples: FloatArray, sample_rate: int) -> FloatArray:
        return denoise(samples, sample_rate, self.model)

    def clock(self) -> float:
        """CPU time in seconds of this thread and of the model's."""
        return time.thread_time() + self.model.cpu_s()


def as_system(model: Model) -> System:
    """An exported denoiser as a system for any sample rate."""
    return lambda samples, sample_rate: denoise(samples, sample_rate, model)


def named_systems(arguments: Sequence[str], sample_rate: int | None = None) -> list[NamedSystem]:
    """Parses MODEL arguments: FILE, FILE@RATE for third-party models, or SHIPPED (also for no argument).

    Args:
        sample_rate: Hz, of all recordings, selects the included model; None selects it by recording.

    Raises:
        ExportError: a file is missing, or is not a model that maps waveforms to waveforms.
        UsageError: two systems of the same name.
    """
    systems = [_shipped(sample_rate) if name == SHIPPED else _from_file(name) for name in arguments or [SHIPPED]]
    names = [*baselines.SYSTEMS, *(system.name for system in systems)]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{name}: two systems of that name, expected one; rename a file")
    return systems


def _shipped(sample_rate: int | None) -> NamedSystem:
    if sample_rate is None:
        pretrained.paths()  # raises if one is missing
        return NamedSystem(SHIPPED, denoise)
    model = pretrained.load(sample_rate=sample_rate)
    return NamedSystem(SHIPPED, as_system(model), model)


def _from_file(argument: str) -> NamedSystem:
    file, at, rate = argument.rpartition("@")
    if at and rate.isdecimal():
        return NamedSystem(Path(argument).name, RemoteSystem(Path(file), int(rate)))
    path = Path(argument)
    try:
        model = load(path, threads=1)
    except ExportError:
        if not path.is_file():
            raise
        return NamedSystem(path.name, RemoteSystem(path))
    return NamedSystem(path.name, RemoteDenoiser(model), model)

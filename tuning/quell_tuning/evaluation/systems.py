"""What `quell evaluate` compares: exported denoisers, the one that comes with Quell, models and methods of others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from quell.errors import ExportError
from quell.evaluation import baselines, external_models
from quell.evaluation.baselines import System
from quell.export.exported_model import Model, load
from quell.inference import pretrained
from quell.inference.enhancement import denoise
from quell_tuning.errors import UsageError

SHIPPED = "quell"  # what the denoiser that comes with the package is called


@dataclass(frozen=True)
class NamedSystem:
    """A system with its name in tables, and the model that it runs where that is one of ours."""

    name: str
    system: System
    model: Model | None = None


def as_system(model: Model) -> System:
    """An exported denoiser, at any rate."""
    return lambda samples, sample_rate: denoise(samples, sample_rate, model)


def named_systems(given: Sequence[str], sample_rate: int | None = None) -> list[NamedSystem]:
    """Models by FILE, FILE@RATE for those of others, or SHIPPED, which is also what is meant by none.

    Args:
        sample_rate: Hz, that all recordings have, for the choice of the shipped one; by recording without it.

    Raises:
        ExportError: a file is missing, or is no model that maps waveforms to waveforms.
        UsageError: two are called the same.
    """
    made = [_shipped(sample_rate) if name == SHIPPED else _of(name) for name in given or [SHIPPED]]
    _check_unique(contender.name for contender in made)
    return made


def _shipped(sample_rate: int | None) -> NamedSystem:
    if sample_rate is None:
        pretrained.paths()  # says what is not there
        return NamedSystem(SHIPPED, denoise)
    model = pretrained.load(sample_rate=sample_rate)
    return NamedSystem(SHIPPED, as_system(model), model)


def _of(given: str) -> NamedSystem:
    file, at, rate = given.rpartition("@")
    if at and rate.isdecimal():
        return NamedSystem(Path(given).name, external_models.system(Path(file), int(rate)))
    path = Path(given)
    try:
        model = load(path)
    except ExportError:
        if not path.is_file():
            raise
        return NamedSystem(path.name, external_models.system(path))
    return NamedSystem(path.name, as_system(model), model)


def _check_unique(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen or name in baselines.SYSTEMS:
            raise UsageError(f"{name}: two systems of that name, expected one; rename a file")
        seen.add(name)

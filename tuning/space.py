"""What can be searched: parameters, their legal values, and how a point becomes a denoiser and its training.

The only file that asks a trial for values. Every searched parameter is always asked for, so that the sampler's joint
space stays whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from quell.denoiser import DenoiserConfig
from quell.losses import Loss
from quell.training import TrainingConfig
from tuning.presets import DEFAULT, PRESETS, Value

if TYPE_CHECKING:
    import optuna

Point = dict[str, Value]
Scalar = Annotated[int | float | str, Field(union_mode="smart")]


class Choices(BaseModel):
    """`{ choices = [...] }`: unordered alternatives."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    choices: list[Scalar] = Field(min_length=1)

    def values(self) -> list[Value]:
        return self.choices


class Range(BaseModel):
    """`{ low, high, log, step }`: an interval, both ends included."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low {self.low}, high {self.high}, expected low < high")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError(f"log with low {self.low}, step {self.step}, expected low above 0 and no step")
        return self

    def values(self) -> list[Value]:
        return [self.low, self.high]


def _shape(value: object) -> str:
    if isinstance(value, dict):
        return "choices" if "choices" in value else "range"
    return "choices" if isinstance(value, Choices) else "range" if isinstance(value, Range) else "fixed"


DOMAIN_TAGS = ("choices", "range", "fixed")
Domain = Choices | Range | Scalar
# Told apart by their keys, so that what is wrong with a range is not reported as a wrong choice.
CheckedDomain = Annotated[
    Annotated[Choices, Tag("choices")] | Annotated[Range, Tag("range")] | Annotated[Scalar, Tag("fixed")],
    Discriminator(_shape),
]


@dataclass(frozen=True)
class Parameter:
    """One parameter: its type, unit and legal values (an interval; `odd` leaves out even numbers)."""

    kind: type[int] | type[float] | type[str]
    unit: str
    low: float = 0.0
    high: float = 0.0
    odd: bool = False

    def objection(self, name: str, value: Value) -> str | None:
        """Why a value is not legal, as `<found>, expected <needed>`; None when it is."""
        if self.kind is str:
            try:
                Loss(str(value), power=1.0, si_sdr_weight=1.0)
            except ValueError as error:
                return str(error).removeprefix("loss: ")
            return None
        wanted = "a whole number" if self.kind is int else "a number"
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or (self.kind is int and not isinstance(value, int)):
            return f"{value!r}, expected {wanted}"
        if not self.low <= float(value) <= self.high:
            return f"{value}, expected {self.low:g} to {self.high:g} {self.unit}".rstrip()
        if self.odd and int(value) % 2 == 0:
            return f"{value}, expected an odd number"
        return None


PARAMETERS: Mapping[str, Parameter] = {
    "win_ms": Parameter(float, "ms", 2, 256),
    "overlap": Parameter(int, "frames over each sample", 2, 16),
    "power": Parameter(float, "", 0.1, 1),
    "depth": Parameter(int, "levels", 2, 7),
    "base_channels": Parameter(int, "channels", 4, 256),
    "growth": Parameter(float, "", 1, 3),
    "kernel_bins": Parameter(int, "bins", 1, 15, odd=True),
    "kernel_frames": Parameter(int, "frames", 1, 15, odd=True),
    "time_stride": Parameter(int, "", 1, 2),
    "dropout": Parameter(float, "", 0, 0.9),
    "loss": Parameter(str, ""),
    "si_sdr_weight": Parameter(float, "per dB", 1e-5, 10),
    "learning_rate": Parameter(float, "", 1e-6, 1),
    "batch_size": Parameter(int, "segments", 1, 1024),
}


def objection(name: str, domain: Domain) -> str | None:
    """Why a parameter cannot be searched over this domain; None when it can."""
    parameter = PARAMETERS[name]
    if isinstance(domain, Range) and (parameter.kind is str or parameter.odd):
        return "low and high, expected choices = [...]"
    values = domain.values() if isinstance(domain, Choices | Range) else [domain]
    return next((problem for value in values if (problem := parameter.objection(name, value))), None)


def suggest(trial: optuna.Trial, search: Mapping[str, Domain]) -> Point:
    """Asks the trial for every searched parameter and completes the point with fixed values and the default preset."""
    point: Point = dict(PRESETS[DEFAULT])
    for name, domain in search.items():
        if isinstance(domain, Choices):
            chosen = trial.suggest_categorical(name, domain.values())
            assert isinstance(chosen, int | float | str)
            point[name] = chosen
        elif isinstance(domain, Range):
            point[name] = _suggest_number(trial, name, domain)
        else:
            point[name] = domain
    return point


def _suggest_number(trial: optuna.Trial, name: str, domain: Range) -> Value:
    if PARAMETERS[name].kind is int:
        return trial.suggest_int(name, int(domain.low), int(domain.high), log=domain.log, step=int(domain.step or 1))
    return trial.suggest_float(name, domain.low, domain.high, log=domain.log, step=domain.step)


def inside(point: Mapping[str, Value], search: Mapping[str, Domain]) -> Point | None:
    """The searched part of a point, to be enqueued; None when the point does not lie in the search."""
    searched: Point = {}
    for name, domain in search.items():
        value = point[name]
        if isinstance(domain, Choices):
            if value not in domain.choices:
                return None
            searched[name] = value
        elif isinstance(domain, Range):
            if isinstance(value, str) or not domain.low <= value <= domain.high:
                return None
            steps = (value - domain.low) / domain.step if domain.step else 0.0
            if abs(steps - round(steps)) > 1e-9:
                return None
            searched[name] = value
        elif value != domain:
            return None
    return searched


def denoiser_config(point: Mapping[str, Any], sample_rate: int) -> DenoiserConfig:
    """The denoiser of a point; window and hop are rounded down to whole samples, the window to an even number."""
    win_length = max(2, int(point["win_ms"] * sample_rate / 1000) // 2 * 2)
    shared = ("power", "depth", "base_channels", "growth", "kernel_bins", "kernel_frames", "time_stride", "dropout")
    return DenoiserConfig(
        sample_rate=sample_rate,
        win_length=win_length,
        hop_length=max(1, win_length // int(point["overlap"])),
        **{name: point[name] for name in shared},
    )


def training_config(
    point: Mapping[str, Any],
    *,
    segment_s: float,
    rungs_audio_hours: tuple[float, ...],
    snr_db: tuple[float, float],
    study_seed: int,
    model: DenoiserConfig,
) -> TrainingConfig:
    """The training of a point, seeded from the study's seed and the configuration: trained again, it is the same."""
    shared = ("loss", "si_sdr_weight", "learning_rate", "batch_size")
    config = TrainingConfig(
        segment_s=segment_s,
        rungs_audio_hours=rungs_audio_hours,
        snr_db=snr_db,
        **{name: point[name] for name in shared},
    )
    text = json.dumps([study_seed, asdict(model), asdict(config) | {"seed": None}], sort_keys=True)
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")
    return TrainingConfig(**asdict(config) | {"seed": seed})

"""What can be searched: parameters, their legal values, and how a point becomes a denoiser and its training.

The only file that asks a trial for values. Every searched parameter is always asked for, so that the sampler's joint
space stays whole.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from quell.config import (
    ACTIVATIONS,
    BOTTLENECKS,
    CONVOLUTIONS,
    DOWNSAMPLINGS,
    LOSS_WEIGHTS,
    NORMALISATIONS,
    OPTIMISERS,
    OUTPUTS,
    PHASES,
    REPRESENTATIONS,
    TARGETS,
    DenoiserConfig,
    TrainingConfig,
    identity,
    loss_objection,
    loss_terms,
)
from quell_tuning.study.presets import DEFAULT, PRESETS, Value

if TYPE_CHECKING:
    import optuna

Point = dict[str, Value]
Scalar = Annotated[bool | int | float | str, Field(union_mode="smart")]


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
    """One parameter: its type, unit and legal values: an interval (`odd` leaves out even numbers) or names."""

    kind: type[int] | type[float] | type[str] | type[bool]
    unit: str = ""
    low: float = 0.0
    high: float = 0.0
    odd: bool = False
    names: tuple[str, ...] = ()

    def objection(self, value: Value) -> str | None:
        """Why a value is not legal, as `<found>, expected <needed>`; None when it is."""
        if self.kind is bool:
            return None if isinstance(value, bool) else f"{value!r}, expected true or false"
        if self.names:
            return None if value in self.names else f"{value!r}, expected one of {', '.join(self.names)}"
        if self.kind is str:
            return _loss_objection(str(value))
        wanted = "a whole number" if self.kind is int else "a number"
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or (self.kind is int and not isinstance(value, int)):
            return f"{value!r}, expected {wanted}"
        if not self.low <= float(value) <= self.high:
            return f"{value}, expected {self.low:g} to {self.high:g} {self.unit}".rstrip()
        if self.odd and int(value) % 2 == 0:
            return f"{value}, expected an odd number"
        return None


def _loss_objection(name: str) -> str | None:
    try:
        loss_terms(name)
    except ValueError as error:
        return str(error).removeprefix("loss: ")
    return None


def _names(names: Iterable[str]) -> Parameter:
    return Parameter(str, names=tuple(names))


PARAMETERS: Mapping[str, Parameter] = {
    "win_ms": Parameter(float, "ms", 2, 256),
    "overlap": Parameter(int, "frames over each sample", 2, 16),
    "representation": _names(REPRESENTATIONS),
    "power": Parameter(float, "", 0.1, 1),
    "target": _names(TARGETS),
    "phase": _names(PHASES),
    "depth": Parameter(int, "levels", 2, 7),
    "base_channels": Parameter(int, "channels", 4, 256),
    "growth": Parameter(float, "", 1, 3),
    "kernel_bins": Parameter(int, "bins", 1, 15, odd=True),
    "kernel_frames": Parameter(int, "frames", 1, 15, odd=True),
    "convolution": _names(CONVOLUTIONS),
    "convolutions_per_level": Parameter(int, "", 1, 3),
    "downsampling": _names(DOWNSAMPLINGS),
    "time_stride": Parameter(int, "", 1, 2),
    "skips": Parameter(bool),
    "normalisation": _names(NORMALISATIONS),
    "activation": _names(ACTIVATIONS),
    "dropout": Parameter(float, "", 0, 0.9),
    "bottleneck": _names(BOTTLENECKS),
    "bottleneck_units": Parameter(int, "units", 4, 1024),
    "bottleneck_channels": Parameter(int, "channels", 0, 1024),
    "causal": Parameter(bool),
    "output": _names(OUTPUTS),
    "loss": Parameter(str),
    **{f"{term}_weight": Parameter(float, "", 1e-5, 1000) for term in LOSS_WEIGHTS},
    "optimiser": _names(OPTIMISERS),
    "learning_rate": Parameter(float, "", 1e-6, 1),
    "batch_size": Parameter(int, "segments", 1, 1024),
}


def objection(name: str, domain: Domain) -> str | None:
    """Why a parameter cannot be searched over this domain; None when it can."""
    parameter = PARAMETERS[name]
    if isinstance(domain, Range) and (parameter.kind in (str, bool) or parameter.odd):
        return "low and high, expected choices = [...]"
    return next((problem for value in _values(domain) if (problem := parameter.objection(value))), None)


def conflict(search: Mapping[str, Domain]) -> str | None:
    """Why some point of the search could not be trained, as `<parameter>: <found>, expected <needed>`; None when all
    can. The domains are legal one by one."""
    fixed = PRESETS[DEFAULT]
    names = ("loss", "output", "target", "bottleneck", "causal")
    values = {name: _values(search.get(name, fixed[name])) for name in names}
    for loss, output, target in itertools.product(values["loss"], values["output"], values["target"]):
        if problem := loss_objection(str(loss), str(output), str(target)):
            return f"loss: {problem}; take one of them out"
    if True in values["causal"] and "both" in values["bottleneck"]:
        needed = "expected none, frequency or forward, since both hears the future"
        return f"bottleneck: 'both' and causal = true, {needed}; take one of them out"
    return None


def _values(domain: Domain) -> list[Value]:
    return domain.values() if isinstance(domain, Choices | Range) else [domain]


def suggest(trial: optuna.Trial, search: Mapping[str, Domain]) -> Point:
    """Asks the trial for every searched parameter and completes the point with fixed values and the default preset."""
    point: Point = dict(PRESETS[DEFAULT])
    for name, domain in search.items():
        if isinstance(domain, Choices):
            chosen = trial.suggest_categorical(name, domain.values())
            assert isinstance(chosen, bool | int | float | str)
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
    """The searched part of a point, to be enqueued; None when the point does not lie in the search, outside of which
    every parameter has its value of the default preset."""
    if any(value != PRESETS[DEFAULT][name] for name, value in point.items() if name not in search):
        return None
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
    """The denoiser of a point; window and hop are rounded down to whole samples.

    A parameter that nothing uses takes its default, so that points which only differ there are the same denoiser.
    """
    win_length = max(2, int(point["win_ms"] * sample_rate / 1000))
    shared = {field.name for field in fields(DenoiserConfig)} & set(point)
    config = DenoiserConfig(
        sample_rate=sample_rate,
        win_length=win_length,
        hop_length=max(1, win_length // int(point["overlap"])),
        **{name: point[name] for name in shared},
    )
    if config.representation != "power":
        config = replace(config, power=DenoiserConfig.power)
    if config.bottleneck == "none":
        config = replace(
            config,
            bottleneck_units=DenoiserConfig.bottleneck_units,
            bottleneck_channels=DenoiserConfig.bottleneck_channels,
        )
    return config


def training_config(
    point: Mapping[str, Any], base: TrainingConfig, study_seed: int, model: DenoiserConfig, repeat: int = 0
) -> TrainingConfig:
    """The training of a point: what the study fixes (`base`) and what the point says, seeded from the study's seed and
    the configuration, so that it is the same when it is trained again; another `repeat` has another seed."""
    config = replace(
        base,
        loss=point["loss"],
        loss_weights={term: float(point[f"{term}_weight"]) for term in loss_terms(point["loss"])},
        optimiser=point["optimiser"],
        learning_rate=point["learning_rate"],
        batch_size=point["batch_size"],
    )
    whole: list[Any] = [study_seed, asdict(model), identity(config) | {"seed": None}]
    text = json.dumps([*whole, repeat] if repeat else whole, sort_keys=True)
    return replace(config, seed=int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big"))

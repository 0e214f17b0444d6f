"""The search space: domains of parameters, trial.suggest_*, and the configurations of a point.

The only module that suggests values. Every searched parameter is always suggested, used or not, so that the sampler's
joint space stays whole.
"""

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Annotated, Any, Self

import optuna
from pydantic import Discriminator, Field, Tag, model_validator

from quell.config import ODD, DenoiserConfig, TrainingConfig, identity, loss_problem, loss_terms
from quell_tuning.study.parameters import DEFAULTS, PARAMETERS, Value
from quell_tuning.study.sections import Section

Point = dict[str, Value]  # a value for every parameter
Scalar = Annotated[bool | int | float | str, Field(union_mode="smart")]


class Choices(Section):
    """`{ choices = [...] }`: unordered alternatives."""

    choices: list[Scalar] = Field(min_length=1)


class Range(Section):
    """`{ low, high, log, step }`: an interval, both ends included."""

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low {self.low}, high {self.high}, expected low < high")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError(f"log with low {self.low}, step {self.step}, expected low above 0 and no step")
        return self


def _tag(value: object) -> str:
    if isinstance(value, dict):
        return "choices" if "choices" in value else "range"
    return "choices" if isinstance(value, Choices) else "range" if isinstance(value, Range) else "fixed"


DOMAIN_TAGS = ("choices", "range", "fixed")
Domain = Choices | Range | Scalar
# Told apart by their keys, so that an error in a range is not reported as one in choices.
CheckedDomain = Annotated[
    Annotated[Choices, Tag("choices")] | Annotated[Range, Tag("range")] | Annotated[Scalar, Tag("fixed")],
    Discriminator(_tag),
]


def problem(name: str, domain: Domain) -> str | None:
    """Why a parameter cannot be searched over this domain; None when it can."""
    parameter = PARAMETERS[name]
    if isinstance(domain, Range) and (parameter.kind in (str, bool) or name in ODD):
        return "low and high, expected choices = [...]"
    return next((problem for value in values(domain) if (problem := parameter.problem(value))), None)


def conflict(search: Mapping[str, Domain]) -> str | None:
    """Why some point of a search whose domains are legal one by one cannot be trained, as `<parameter>: <found>,
    expected <needed>`; None when all can.
    """
    names = ("loss", "output", "target", "bottleneck", "causal")
    options = {name: values(search.get(name, DEFAULTS[name])) for name in names}
    for loss, output, target in itertools.product(options["loss"], options["output"], options["target"]):
        if problem := loss_problem(str(loss), str(output), str(target)):
            return f"loss: {problem}; take one of them out"
    if True in options["causal"] and "both" in options["bottleneck"]:
        needed = "expected none, frequency or forward, since both depends on later frames"
        return f"bottleneck: 'both' and causal = true, {needed}; take one of them out"
    return None


def values(domain: Domain) -> list[Value]:
    """The choices, the ends of a range, or the fixed value."""
    if isinstance(domain, Choices):
        return domain.choices
    return [domain.low, domain.high] if isinstance(domain, Range) else [domain]


def suggest(trial: optuna.Trial, search: Mapping[str, Domain]) -> Point:
    """Suggests every searched parameter; the others have their fixed value or their default."""
    point: Point = dict(DEFAULTS)
    for name, domain in search.items():
        if isinstance(domain, Choices):
            choice = trial.suggest_categorical(name, domain.choices)
            assert isinstance(choice, bool | int | float | str)
            point[name] = choice
        elif not isinstance(domain, Range):
            point[name] = domain
        elif PARAMETERS[name].kind is int:
            low, high, step = int(domain.low), int(domain.high), int(domain.step or 1)
            point[name] = trial.suggest_int(name, low, high, log=domain.log, step=step)
        else:
            point[name] = trial.suggest_float(name, domain.low, domain.high, log=domain.log, step=domain.step)
    return point


def inside(point: Mapping[str, Value], search: Mapping[str, Domain]) -> Point | None:
    """The searched parameters of a point, to be enqueued; None when the point does not lie in the search.

    Parameters that are not in the search must have their defaults.
    """
    if any(value != DEFAULTS[name] for name, value in point.items() if name not in search):
        return None
    if not all(_includes(domain, point[name]) for name, domain in search.items()):
        return None
    return {name: point[name] for name, domain in search.items() if isinstance(domain, Choices | Range)}


def _includes(domain: Domain, value: Value) -> bool:
    if not isinstance(domain, Range):
        return value in values(domain)
    if isinstance(value, str) or not domain.low <= value <= domain.high:
        return False
    steps = (value - domain.low) / domain.step if domain.step else 0.0
    return abs(steps - round(steps)) <= 1e-9


def denoiser_config(point: Mapping[str, Any], sample_rate: int) -> DenoiserConfig:
    """The denoiser of a point; window and hop are rounded down to whole samples.

    A parameter without effect gets its default, so that points which differ only there are duplicates.
    """
    win_length = max(2, int(point["win_ms"] * sample_rate / 1000))
    names = {field.name for field in fields(DenoiserConfig)} & point.keys()
    if point["representation"] != "power":
        names -= {"power"}
    if point["bottleneck"] == "none":
        names -= {"bottleneck_units", "bottleneck_channels"}
    return DenoiserConfig(
        sample_rate=sample_rate,
        win_length=win_length,
        hop_length=max(1, win_length // int(point["overlap"])),
        **{name: point[name] for name in names},
    )


def training_config(
    point: Mapping[str, Any], base: TrainingConfig, study_seed: int, model: DenoiserConfig, repeat: int = 0
) -> TrainingConfig:
    """The training of a point. Its seed follows from the study's seed and both configurations, so that duplicates have
    the same seed.

    Args:
        base: the training that all trials of the study share.
        repeat: trainings of the same point beside the first one count from 1; each has another seed.
    """
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

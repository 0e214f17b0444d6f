"""A study file (TOML) -> StudySpec, its hash, and errors that name file, key, found and needed."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from optuna.study import StudyDirection
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from quell.config import MixingConfig, TrainingConfig
from quell.metrics import PESQ_MODES
from quell.recordings import FOLDERS, SHARES, CorpusConfig
from quell.splits import SPLITS
from tuning import space
from tuning.errors import StudyFileError
from tuning.objections import first_objection, unknown_key
from tuning.presets import DEFAULT, PRESETS

# A rung means something once the averaged weights have left their random start.
FIRST_RUNG_STEPS = 100


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


METRICS = ("pesq", "stoi", "estoi", "si_sdr")
# Scores that are costs, to be minimised beside a metric: name -> field of quell.cost.Cost.
COSTS = {"macs": "macs_per_s", "parameters": "parameters"}


class StudySection(_Section):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    trials: int = Field(ge=1)
    score: str | list[str] = "pesq"  # one metric, or a metric and costs, between which a front is searched
    seed: int = Field(default=0, ge=0)
    confirm: int = Field(default=0, ge=0)  # so many of the best are trained with two more seeds at the end
    sampler: Literal["tpe", "gp", "random", "cma-es"] = "tpe"
    pruner: Literal["median", "asha", "hyperband", "none"] = "asha"

    @model_validator(mode="after")
    def _scores(self) -> StudySection:
        names = self.scores
        if isinstance(self.score, str) and self.score not in METRICS:
            raise ValueError(f"score: {self.score!r}, expected one of {', '.join(METRICS)}")
        if isinstance(self.score, list) and (
            len(names) < 2 or len(set(names)) < len(names) or names[0] not in METRICS or set(names[1:]) - set(COSTS)
        ):
            costs = ", ".join(COSTS)
            raise ValueError(f"score: {names}, expected a metric ({', '.join(METRICS)}) and then costs ({costs})")
        if len(names) > 1 and self.sampler == "cma-es":
            raise ValueError("sampler: 'cma-es', expected tpe, gp or random for several scores; take one of these")
        if len(names) > 1 and self.confirm:
            raise ValueError(f"confirm: {self.confirm}, expected 0 for several scores, which have no single winner")
        return self

    @property
    def scores(self) -> list[str]:
        return [self.score] if isinstance(self.score, str) else list(self.score)

    @property
    def metric(self) -> str:
        """The score that says how good it sounds; rungs are scored by it."""
        return self.scores[0]

    @property
    def directions(self) -> list[StudyDirection]:
        """One for each score."""
        return [StudyDirection.MINIMIZE if name in COSTS else StudyDirection.MAXIMIZE for name in self.scores]


def _pair(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _ordered(snr_db: tuple[float, float]) -> None:
    if not snr_db[0] < snr_db[1]:
        raise ValueError(f"snr_db: {list(snr_db)}, expected [low, high] in dB with low < high")


def _whole(splits: dict[str, float] | str) -> None:
    if isinstance(splits, str):
        if splits != FOLDERS and not splits.endswith(".csv"):
            raise ValueError(f'splits: {splits!r}, expected shares, "{FOLDERS}" or the path of a .csv file')
        return
    shares = list(splits.values())
    if tuple(splits) != SPLITS or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"splits: {splits}, expected train, validation and test above 0 that add up to 1")


class CorpusSection(_Section):
    """Folders are relative to --corpus or QUELL_CORPUS."""

    clean: str = "speech"
    noise: str = "noise"
    sample_rate: int = Field(default=16_000, ge=4_000, le=192_000)
    snr_db: tuple[float, float] = (-5.0, 20.0)
    group_clean: str = "parent"
    group_noise: str = "file"
    # Shares; or "folders", where each side has one for each split; or a CSV file with the columns path and split.
    splits: dict[str, float] | str = Field(default_factory=lambda: dict(SHARES))
    hours: float = Field(default=0.0, ge=0)
    rooms: str = ""  # folder of room impulse responses, for training; "" goes without
    generated_rooms: int = Field(default=0, ge=0, le=100_000)  # so many room responses are made instead
    noisy: str = ""  # folder of noisy versions of the clean recordings, by the same paths, instead of noise
    remix: bool = False  # the noise of pairs is mixed with other speech, too
    kinds: list[str] = Field(default_factory=list)  # folders of noise that are taken; all without any
    trim_db: float = Field(default=0.0, ge=0, le=120)  # softer ends of clean speech are cut off; 0 keeps them
    synthetic: bool = False  # made by Quell, under the runs folder, when no corpus is named

    _pair = field_validator("snr_db", mode="before")(_pair)

    @model_validator(mode="after")
    def _consistent(self) -> CorpusSection:
        _ordered(self.snr_db)
        _whole(self.splits)
        if self.rooms and self.generated_rooms:
            raise ValueError(
                f"generated_rooms: {self.generated_rooms} with rooms = {self.rooms!r}, expected one of them"
            )
        if self.remix and not self.noisy:
            raise ValueError("remix: true without noisy, expected pairs of recordings; name their folder in noisy")
        if self.noisy and self.trim_db:
            raise ValueError(f"trim_db: {self.trim_db} with noisy, expected 0 for pairs, whose sides belong together")
        for key in ("group_clean", "group_noise"):
            rule = getattr(self, key)
            if rule in ("parent", "file"):
                continue
            try:
                groups = re.compile(rule).groups
            except re.error as error:
                raise ValueError(f"{key}: {rule!r} ({error}), expected a regular expression") from None
            if groups != 1:
                raise ValueError(
                    f"{key}: {rule!r} has {groups} groups, expected parent, file, or a regex with one group"
                )
        return self


class TrainingSection(_Section):
    segment_s: float = Field(default=2.0, gt=0, le=60)
    audio_hours: float = Field(default=4.0, gt=0)
    rungs_audio_hours: list[float] = [1.0, 2.0, 4.0]
    validation_mixtures: int = Field(default=128, ge=6)
    snr_db: tuple[float, float] | None = None  # of training; the corpus's, that of the scores, without it
    level_db: float = Field(default=10.0, ge=0, le=60)  # the level worked at is off the mixture's by up to this much
    rooms: float = Field(default=0.5, ge=0, le=1)  # share of the mixtures in a room, where corpus.rooms has some
    clean: float = Field(default=0.0, ge=0, le=1)  # share of the mixtures without noise
    second_noise: float = Field(default=0.0, ge=0, le=1)  # share of the mixtures with two noises at once
    colour_db: float = Field(default=0.0, ge=0, le=30)  # speech and noise are each coloured by up to this much
    # Noise over speech, both at the same peak, instead of snr_db.
    noise_level: tuple[float, float] | None = None
    noise_weights: dict[str, float] = Field(default_factory=dict)  # of kinds of noise, 1 for what is absent
    remix: float = Field(default=0.5, ge=0, le=1)  # share of pairs mixed anew, where corpus.remix allows it
    band_limit: float = Field(default=0.0, ge=0, le=1)  # share of the mixtures that end at a lower frequency
    clipping: float = Field(default=0.0, ge=0, le=1)  # share of the mixtures whose noisy side is clipped
    codec: float = Field(default=0.0, ge=0, le=1)  # share of the mixtures whose noisy side passed Ogg or MP3
    precision: Literal["auto", "float32"] = "auto"  # of the network's products in training

    _pair = field_validator("snr_db", "noise_level", mode="before")(_pair)

    @model_validator(mode="after")
    def _rungs(self) -> TrainingSection:
        if self.snr_db is not None:
            _ordered(self.snr_db)
        if self.noise_level is not None and not 0 <= self.noise_level[0] <= self.noise_level[1] <= 100:
            raise ValueError(f"noise_level: {list(self.noise_level)}, expected [low, high] from 0 to 100, low <= high")
        if min(self.noise_weights.values(), default=0) < 0:
            raise ValueError(f"noise_weights: {self.noise_weights}, expected 0 or more for each")
        rungs = self.rungs_audio_hours
        if not rungs or sorted(set(rungs)) != rungs or rungs[0] <= 0 or rungs[-1] != self.audio_hours:
            raise ValueError(
                f"rungs_audio_hours: {rungs}, expected ascending and ending at audio_hours, {self.audio_hours}"
            )
        return self


# The measured real-time factor is too much above so many times its limit: a busy machine is not the network's fault.
RTF_MARGIN = 1.5


class LimitsSection(_Section):
    """What a denoiser may cost; a configuration over a limit is refused before any training."""

    parameters: int | None = Field(default=None, ge=1)
    macs_per_s: float | None = Field(default=None, gt=0)
    real_time_factor: float | None = Field(default=None, gt=0)  # on one CPU thread
    latency_ms: float | None = Field(default=None, gt=0)  # window and look-ahead

    def given(self) -> dict[str, float]:
        return {name: value for name, value in self if value is not None}


# Keys that came later: at their defaults they are left out of what is stored and hashed, so that older studies go on.
LATER = {
    "corpus": ("generated_rooms", "noisy", "remix", "kinds", "trim_db"),
    "training": ("noise_level", "noise_weights", "remix", "band_limit", "clipping", "codec"),
}


class StudySpec(_Section):
    """A whole study file, checked and completed with defaults."""

    study: StudySection
    corpus: CorpusSection
    training: TrainingSection = TrainingSection()
    limits: LimitsSection = LimitsSection()
    search: dict[str, space.CheckedDomain] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _together(self, info: ValidationInfo) -> StudySpec:
        for name, domain in self.search.items():
            if name not in space.PARAMETERS:
                raise ValueError(f"search.{unknown_key(name, space.PARAMETERS)}")
            problem = space.objection(name, domain)
            if problem:
                raise ValueError(f"search.{name}: {problem}")
        if not info.context and (problem := space.conflict(self.search)):
            raise ValueError(f"search.{problem}")
        if self.study.metric == "pesq" and self.corpus.sample_rate not in PESQ_MODES:
            rate = self.corpus.sample_rate
            raise ValueError(
                f"corpus.sample_rate: {rate}, expected 8000 or 16000 for study.score = 'pesq'; or use 'estoi'"
            )
        batch, rung = self.largest_batch(), self.training.rungs_audio_hours[0]
        steps = int(rung * 3600 / (batch * self.training.segment_s))
        if steps < FIRST_RUNG_STEPS:
            found = f"training.rungs_audio_hours: {rung} h are {steps} steps of batch {batch}"
            raise ValueError(f"{found}, expected at least {FIRST_RUNG_STEPS}; raise the first rung or lower batch_size")
        return self

    def largest_batch(self) -> int:
        domain = self.search.get("batch_size", PRESETS[DEFAULT]["batch_size"])
        values = domain.values() if isinstance(domain, space.Choices | space.Range) else [domain]
        return max(int(value) for value in values)

    def resolved(self) -> dict[str, Any]:
        """What changes a result, with all defaults filled in: without name, trials and folders."""
        full = self.model_dump(mode="json")
        for section, outside in {
            "study": ("name", "trials", "confirm"),
            "corpus": ("clean", "noise", "rooms", "synthetic"),
        }.items():
            for key in outside:
                del full[section][key]
        if full["corpus"]["noisy"]:
            full["corpus"]["noisy"] = "pairs"  # wherever they are
        for section, defaults in {"corpus": CorpusSection(), "training": TrainingSection()}.items():
            for key in LATER[section]:
                if getattr(getattr(self, section), key) == getattr(defaults, key):
                    del full[section][key]
        fixed = dict(PRESETS[DEFAULT])
        full["search"] = {name: full["search"].get(name, fixed[name]) for name in sorted(fixed)}
        return full

    def hash(self) -> str:
        """16 hex digits over `resolved`."""
        return hashlib.sha256(json.dumps(self.resolved(), sort_keys=True).encode()).hexdigest()[:16]

    def training_config(self) -> TrainingConfig:
        """What is the same for all trials."""
        section = self.training
        shared = {field.name for field in fields(MixingConfig)} | {"segment_s", "precision"}
        given = {name: getattr(section, name) for name in shared} | {"snr_db": section.snr_db or self.corpus.snr_db}
        return TrainingConfig(rungs_audio_hours=tuple(section.rungs_audio_hours), **given)

    def corpus_config(self, root: Path, rooms: Path | None = None) -> CorpusConfig:
        """Which recordings, where `root` is the folder that folders are relative to.

        Args:
            rooms: where generated rooms are.
        """
        section = self.corpus
        listed = isinstance(section.splits, str) and section.splits != FOLDERS
        return CorpusConfig(
            clean=root / section.clean,
            noise=None if section.noisy else root / section.noise,
            sample_rate=section.sample_rate,
            group_clean=section.group_clean,
            group_noise=section.group_noise,
            splits=str(root / str(section.splits)) if listed else section.splits,
            hours=section.hours,
            rooms=root / section.rooms if section.rooms else rooms,
            noisy=root / section.noisy if section.noisy else None,
            remix=section.remix,
            kinds=tuple(section.kinds),
            trim_db=section.trim_db,
        )


def load(path: Path, *, trials: int | None = None, confirm: int | None = None) -> StudySpec:
    """The study that a file describes; with other numbers of trials and confirmed ones where they are given.

    Raises:
        StudyFileError: the file is missing, is not TOML, or says something that cannot be run.
    """
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
        for key, value in (("trials", trials), ("confirm", confirm)):
            if value is not None and isinstance(content.get("study"), dict):
                content["study"][key] = value
        return StudySpec.model_validate(content)
    except FileNotFoundError:
        raise StudyFileError(f"{path}: no such file, expected a study file (TOML); check the path") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise StudyFileError(f"{path}: {error}, expected a study file (TOML); mend it there") from None
    except ValidationError as error:
        raise StudyFileError(f"{path}: {first_objection(error, StudySpec)}") from None


def restore(resolved: dict[str, Any], name: str) -> StudySpec:
    """The specification of a stored study, from what it says of itself; its folders are not among that."""
    study = {**resolved["study"], "name": name, "trials": 1}
    # The presets lie in a search of which not every point could be trained.
    return StudySpec.model_validate({**resolved, "study": study}, context={"stored": True})

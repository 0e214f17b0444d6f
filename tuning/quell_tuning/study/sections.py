"""The keys of a study file by section: types, ranges and defaults. Defaults that quell has too are taken from there."""

import re
from collections.abc import Collection
from typing import Annotated, Self

from optuna.study import StudyDirection
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, model_validator

from quell.config import CHOICES, TrainingConfig
from quell.corpus.recordings import FOLDERS, SHARES, CorpusConfig
from quell.corpus.splits import SPLITS
from quell.metrics.intrusive import UNITS
from quell_tuning.formatting import SCORED_COSTS
from quell_tuning.study.samplers import PRUNERS, SAMPLERS

METRICS = tuple(UNITS)


class Section(BaseModel):
    """Base of the sections and of the search's domains: unknown keys and values of another type are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _one_of(names: Collection[str]) -> AfterValidator:
    def check(name: str, info: ValidationInfo) -> str:
        if name not in names:
            raise ValueError(f"{info.field_name}: {name!r}, expected one of {', '.join(names)}")
        return name

    return AfterValidator(check)


def _check_low_below_high(snr_db: tuple[float, float]) -> tuple[float, float]:
    if not snr_db[0] < snr_db[1]:
        raise ValueError(f"snr_db: {list(snr_db)}, expected [low, high] in dB with low < high")
    return snr_db


def _check_group(rule: str, info: ValidationInfo) -> str:
    try:
        groups = re.compile(rule).groups
    except re.error as error:
        raise ValueError(f"{info.field_name}: {rule!r} ({error}), expected a regular expression") from None
    if groups != 1 and rule not in ("parent", "file"):
        needed = "expected parent, file, or a regex with one group"
        raise ValueError(f"{info.field_name}: {rule!r} has {groups} groups, {needed}")
    return rule


# Names in the folder of the runs that no study may have, each compared without regard to case.
RESERVED = ("artifacts", "corpora", "demo-corpus", "devices", "postgres", "quell.db", "quell.db-wal", "quell.db-shm")
# A folder has the study's name, and studies beside it have longer ones; file systems allow 255 bytes, Optuna 512.
LONGEST_NAME = 100


def _check_name(name: str, info: ValidationInfo) -> str:
    if info.context:  # of a stored study, which an earlier version, or this one beside another study, gave its name
        return name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(f"name: {name!r}, expected letters, digits, '.', '_' and '-', the first a letter or digit")
    if len(name) > LONGEST_NAME:
        raise ValueError(f"name: {len(name)} characters, expected at most {LONGEST_NAME}")
    if name.lower() in RESERVED:
        raise ValueError(f"name: {name!r} is a name in the folder of the runs, expected another one")
    return name


# TOML has lists, but no tuples.
Pair = Annotated[tuple[float, float], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)]
SnrRange = Annotated[Pair, AfterValidator(_check_low_below_high)]
GroupRule = Annotated[str, AfterValidator(_check_group)]
Share = Annotated[float, Field(ge=0, le=1)]  # of the mixtures


class StudySection(Section):
    """What is scored, and how points are chosen and pruned."""

    name: Annotated[str, AfterValidator(_check_name)]
    trials: int = Field(ge=1)
    score: str | list[str] = "pesq"  # one metric; or a metric and costs: then a Pareto front is searched
    seed: int = Field(default=0, ge=0)
    confirm: int = Field(default=0, ge=0)  # so many of the best trials are trained with two more seeds at the end
    sampler: Annotated[str, _one_of(SAMPLERS)] = "tpe"
    pruner: Annotated[str, _one_of(PRUNERS)] = "asha"

    @model_validator(mode="after")
    def _check_scores(self) -> Self:
        names, metrics = self.scores, ", ".join(METRICS)
        if isinstance(self.score, str) and self.score not in METRICS:
            raise ValueError(f"score: {self.score!r}, expected one of {metrics}")
        distinct = 1 < len(names) == len(set(names))
        if isinstance(self.score, list) and not (
            distinct and names[0] in METRICS and SCORED_COSTS.keys() >= {*names[1:]}
        ):
            raise ValueError(
                f"score: {names}, expected a metric ({metrics}) and then costs ({', '.join(SCORED_COSTS)})"
            )
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
        """The first score, a metric of quality; rungs are scored by it."""
        return self.scores[0]

    @property
    def directions(self) -> list[StudyDirection]:
        """One for each score."""
        return [StudyDirection.MINIMIZE if name in SCORED_COSTS else StudyDirection.MAXIMIZE for name in self.scores]


class CorpusSection(Section):
    """Which recordings, and what they are mixed at. Folders are relative to --corpus or QUELL_CORPUS."""

    clean: str = "speech"
    noise: str = "noise"
    sample_rate: int = Field(default=CorpusConfig.sample_rate, ge=4_000, le=192_000)
    snr_db: SnrRange = TrainingConfig.snr_db  # of the mixtures; training may have its own
    group_clean: GroupRule = CorpusConfig.group_clean
    group_noise: GroupRule = CorpusConfig.group_noise
    # Shares; or "folders", where each side has one for each split; or a CSV file with the columns path and split.
    splits: dict[str, float] | str = Field(default_factory=lambda: dict(SHARES))
    hours: float = Field(default=CorpusConfig.hours, ge=0)
    rooms: str = ""  # folder of room impulse responses for training; empty: none
    generated_rooms: int = Field(default=0, ge=0, le=100_000)  # number of synthetic room responses, instead of rooms
    noisy: str = ""  # folder of noisy versions of the clean recordings, by the same paths, instead of noise
    remix: bool = CorpusConfig.remix
    kinds: list[str] = Field(default_factory=list)
    trim_db: float = Field(default=CorpusConfig.trim_db, ge=0, le=120)
    synthetic: bool = False  # the synthetic corpus, below the runs folder, when no corpus is named

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._check_splits()
        if self.rooms and self.generated_rooms:
            raise ValueError(
                f"generated_rooms: {self.generated_rooms} with rooms = {self.rooms!r}, expected one of them"
            )
        if self.remix and not self.noisy:
            raise ValueError("remix: true without noisy, expected pairs of recordings; name their folder in noisy")
        if self.noisy and self.trim_db:
            raise ValueError(f"trim_db: {self.trim_db} with noisy, expected 0 for pairs, whose sides belong together")
        return self

    def _check_splits(self) -> None:
        if isinstance(self.splits, str):
            if self.splits != FOLDERS and not self.splits.endswith(".csv"):
                raise ValueError(f'splits: {self.splits!r}, expected shares, "{FOLDERS}" or the path of a .csv file')
            return
        shares = list(self.splits.values())
        if tuple(self.splits) != SPLITS or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
            raise ValueError(f"splits: {self.splits}, expected train, validation and test above 0 that add up to 1")


class TrainingSection(Section):
    """What is the same for the training of all trials; `quell.config.MixingConfig` says what the keys mean."""

    segment_s: float = Field(default=TrainingConfig.segment_s, gt=0, le=60)
    audio_hours: float = Field(default=TrainingConfig.rungs_audio_hours[-1], gt=0)
    rungs_audio_hours: list[float] = list(TrainingConfig.rungs_audio_hours)
    validation_mixtures: int = Field(default=128, ge=6)
    snr_db: SnrRange | None = None  # None: that of the corpus
    level_db: float = Field(default=TrainingConfig.level_db, ge=0, le=60)
    rooms: Share = TrainingConfig.rooms
    clean: Share = TrainingConfig.clean
    second_noise: Share = TrainingConfig.second_noise
    colour_db: float = Field(default=TrainingConfig.colour_db, ge=0, le=30)
    snr_active: bool = TrainingConfig.snr_active
    noise_level: Pair | None = TrainingConfig.noise_level
    noise_weights: dict[str, float] = Field(default_factory=dict)
    remix: Share = TrainingConfig.remix
    band_limit: Share = TrainingConfig.band_limit
    clipping: Share = TrainingConfig.clipping
    codec: Share = TrainingConfig.codec
    precision: Annotated[str, _one_of(CHOICES["precision"])] = TrainingConfig.precision

    @model_validator(mode="after")
    def _check(self) -> Self:
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


# A trial is over the limit of the real-time factor at so many times the limit: a busy machine slows the network, too.
RTF_MARGIN = 1.5


class LimitsSection(Section):
    """Largest costs of a denoiser; a configuration over a limit is refused before training."""

    parameters: int | None = Field(default=None, ge=1)
    macs_per_s: float | None = Field(default=None, gt=0)
    real_time_factor: float | None = Field(default=None, gt=0)  # on one CPU thread
    latency_ms: float | None = Field(default=None, gt=0)  # window and look-ahead

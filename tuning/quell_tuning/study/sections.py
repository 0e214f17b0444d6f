"""What the sections of a study file may say."""

from __future__ import annotations

import re
from typing import Literal

from optuna.study import StudyDirection
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from quell.corpus.recordings import FOLDERS, SHARES
from quell.corpus.splits import SPLITS
from quell.metrics.intrusive import UNITS
from quell_tuning.formatting import SCORED_COSTS


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


METRICS = tuple(UNITS)


class StudySection(Section):
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
            len(names) < 2
            or len(set(names)) < len(names)
            or names[0] not in METRICS
            or set(names[1:]) - set(SCORED_COSTS)
        ):
            costs = ", ".join(SCORED_COSTS)
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
        return [StudyDirection.MINIMIZE if name in SCORED_COSTS else StudyDirection.MAXIMIZE for name in self.scores]


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


class CorpusSection(Section):
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


class TrainingSection(Section):
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
    snr_active: bool = False  # whether SNRs of training are those of the speech where there is some
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


class LimitsSection(Section):
    """What a denoiser may cost; a configuration over a limit is refused before any training."""

    parameters: int | None = Field(default=None, ge=1)
    macs_per_s: float | None = Field(default=None, gt=0)
    real_time_factor: float | None = Field(default=None, gt=0)  # on one CPU thread
    latency_ms: float | None = Field(default=None, gt=0)  # window and look-ahead

    def given(self) -> dict[str, float]:
        return {name: value for name, value in self if value is not None}

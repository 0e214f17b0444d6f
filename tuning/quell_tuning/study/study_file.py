"""Study files (TOML): read and checked as a StudySpec, with a hash and errors that name file and key."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError, ValidationInfo, model_validator

from quell import config
from quell.config import MixingConfig, TrainingConfig
from quell.corpus.recordings import FOLDERS, CorpusConfig
from quell.metrics.intrusive import PESQ_MODES
from quell.progress import Progress, ignore
from quell_tuning.errors import StudyFileError, StudyMismatch
from quell_tuning.study import search_space
from quell_tuning.study.parameters import DEFAULTS, PARAMETERS
from quell_tuning.study.sections import CorpusSection, LimitsSection, Section, StudySection, TrainingSection
from quell_tuning.study.validation_errors import first_problem, unknown_key

if TYPE_CHECKING:
    from quell.corpus.memory_map import Corpus
    from quell.metrics.scorer import Scorer
    from quell.mixing.evaluation_mixtures import EvaluationSet

# Fewer steps say nothing: the averaged weights are still near their random start.
FIRST_RUNG_STEPS = 100
# Keys added after the first studies: at their defaults they are neither stored nor hashed, so that older studies match.
LATER = {"corpus": ("generated_rooms", "noisy", "remix", "kinds", "trim_db"), "training": config.LATER}
# What older versions did that had no such key: a stored specification without it was made by one of them. Of `search`
# these are today's defaults, but for those that are named.
OF_OLD: Mapping[str, Mapping[str, Any]] = {
    "study": {"sampler": "tpe", "pruner": "median"},
    "training": {
        "snr_db": None,
        "level_db": 10.0,
        "rooms": 0.5,
        "clean": 0.0,
        "second_noise": 0.0,
        "colour_db": 0.0,
        "precision": "auto",
    },
    "limits": dict.fromkeys(LimitsSection.model_fields),
    "search": {**DEFAULTS, "phase": "noisy", "bottleneck_channels": 0, "optimiser": "adamw"},
}
# Keys that are no more, and the values with which they did nothing.
DROPPED: Mapping[str, Mapping[str, Any]] = {"training": {"synthetic": 0.0}}


class StudySpec(Section):
    """A whole study file with all defaults filled in."""

    study: StudySection
    corpus: CorpusSection
    training: TrainingSection = TrainingSection()
    limits: LimitsSection = LimitsSection()
    search: dict[str, search_space.CheckedDomain] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> StudySpec:
        for name, domain in self.search.items():
            if name not in PARAMETERS:
                raise ValueError(f"search.{unknown_key(name, PARAMETERS)}")
            if problem := search_space.problem(name, domain):
                raise ValueError(f"search.{name}: {problem}")
        if not info.context and (problem := search_space.conflict(self.search)):
            raise ValueError(f"search.{problem}")
        rate = self.corpus.sample_rate
        if self.study.metric == "pesq" and rate not in PESQ_MODES:
            raise ValueError(
                f"corpus.sample_rate: {rate}, expected 8000 or 16000 for study.score = 'pesq'; or use 'estoi'"
            )
        batches = search_space.values(self.search.get("batch_size", DEFAULTS["batch_size"]))
        batch, rung = max(map(int, batches)), self.training.rungs_audio_hours[0]
        steps = int(rung * 3600 / (batch * self.training.segment_s))
        if steps < FIRST_RUNG_STEPS:
            raise ValueError(
                f"training.rungs_audio_hours: {rung} h are {steps} steps of batch {batch}, expected at least "
                f"{FIRST_RUNG_STEPS}; raise the first rung or lower batch_size"
            )
        return self

    def resolved(self) -> dict[str, Any]:
        """Every key that changes a result, defaults included: not name, numbers of trials and folders."""
        full = self.model_dump(mode="json")
        for key in ("name", "trials", "confirm"):
            del full["study"][key]
        for key in ("clean", "noise", "rooms", "synthetic"):
            del full["corpus"][key]
        if full["corpus"]["noisy"]:
            full["corpus"]["noisy"] = "pairs"  # not their folder
        for section, defaults in {"corpus": CorpusSection(), "training": TrainingSection()}.items():
            for key in LATER[section]:
                if getattr(getattr(self, section), key) == getattr(defaults, key):
                    del full[section][key]
        full["search"] = {name: full["search"].get(name, DEFAULTS[name]) for name in sorted(DEFAULTS)}
        return full

    def hash(self) -> str:
        """16 hex digits over `resolved`."""
        return hashlib.sha256(json.dumps(self.resolved(), sort_keys=True).encode()).hexdigest()[:16]

    def training_config(self) -> TrainingConfig:
        """The training that all trials share; `search_space.training_config` adds what a point changes."""
        section = self.training
        names = {field.name for field in fields(MixingConfig)} | {"segment_s", "precision"}
        shared = {name: getattr(section, name) for name in names} | {"snr_db": section.snr_db or self.corpus.snr_db}
        return TrainingConfig(rungs_audio_hours=tuple(section.rungs_audio_hours), **shared)

    def corpus_config(self, root: Path, rooms: Path | None = None) -> CorpusConfig:
        """The recordings of the study, in folders relative to `root`; generated room responses are in `rooms`."""
        section = self.corpus
        in_csv = isinstance(section.splits, str) and section.splits != FOLDERS
        return CorpusConfig(
            clean=root / section.clean,
            noise=None if section.noisy else root / section.noise,
            sample_rate=section.sample_rate,
            group_clean=section.group_clean,
            group_noise=section.group_noise,
            splits=str(root / str(section.splits)) if in_csv else section.splits,
            hours=section.hours,
            rooms=root / section.rooms if section.rooms else rooms,
            noisy=root / section.noisy if section.noisy else None,
            remix=section.remix,
            kinds=tuple(section.kinds),
            trim_db=section.trim_db,
        )


def load(path: Path, *, trials: int | None = None, confirm: int | None = None) -> StudySpec:
    """Reads a study file; `trials` and `confirm` replace those of the file.

    Raises:
        StudyFileError: the file is missing, is not TOML, or describes a study that cannot be run.
    """
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
        for key, value in (("trials", trials), ("confirm", confirm)):
            if value is not None and isinstance(content.get("study"), dict):
                content["study"][key] = value
        return StudySpec.model_validate(content)
    except FileNotFoundError:
        raise StudyFileError(
            f"{path}: no such file, expected a study file (TOML); check the path, or see `quell studies`"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise StudyFileError(f"{path}: {error}, expected a study file (TOML); correct it there") from None
    except ValidationError as error:
        raise StudyFileError(f"{path}: {first_problem(error, StudySpec)}") from None


def completed(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """A stored `resolved`, of this version or an older one, as this version would store it."""
    sections: dict[str, Any] = {**resolved}
    for section, values in OF_OLD.items():
        sections[section] = {**values, **resolved.get(section, {})}
    for section, inert in DROPPED.items():
        entries = sections[section].items()
        sections[section] = {key: value for key, value in entries if not (key in inert and inert[key] == value)}
    return sections


def restore(resolved: Mapping[str, Any], name: str) -> StudySpec:
    """The specification of a stored study, from its `resolved`: without its folders and number of trials.

    Raises:
        StudyMismatch: another version made it, and it has keys or values that this one does not know.
    """
    sections = completed(resolved)
    study = {**sections["study"], "name": name, "trials": 1}
    try:
        # The search of the presets holds points that cannot be trained; none of them is a preset.
        return StudySpec.model_validate({**sections, "study": study}, context={"stored": True})
    except ValidationError as error:
        problem = first_problem(error, StudySpec).partition("; ")[0]
        raise StudyMismatch(f"study {name!r}: {problem} in this version; use the version that made it") from None


def validation_set(spec: StudySpec, corpus: Corpus, scorer: Scorer, progress: Progress = ignore) -> EvaluationSet:
    """The mixtures that the study's trials are scored on."""
    from quell.mixing.evaluation_mixtures import evaluation_set  # imports torch, which a study file does not need

    count, seed = spec.training.validation_mixtures, spec.study.seed
    return evaluation_set(corpus, "validation", count, spec.corpus.snr_db, seed, scorer, progress)

"""A study file (TOML) -> StudySpec, its hash, and errors that name file, key, found and needed."""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError, ValidationInfo, model_validator

from quell.config import MixingConfig, TrainingConfig
from quell.corpus.recordings import FOLDERS, CorpusConfig
from quell.metrics.intrusive import PESQ_MODES
from quell.progress import Progress
from quell_tuning.errors import StudyFileError
from quell_tuning.study import search_space
from quell_tuning.study.parameters import DEFAULTS, PARAMETERS
from quell_tuning.study.sections import CorpusSection, LimitsSection, Section, StudySection, TrainingSection
from quell_tuning.study.validation_errors import first_objection, unknown_key

if TYPE_CHECKING:
    from quell.corpus.memory_map import Corpus
    from quell.metrics.scorer import Scorer
    from quell.mixing.evaluation_mixtures import EvaluationSet

# A rung means something once the averaged weights have left their random start.
FIRST_RUNG_STEPS = 100


# Keys that came later: at their defaults they are left out of what is stored and hashed, so that older studies go on.
LATER = {
    "corpus": ("generated_rooms", "noisy", "remix", "kinds", "trim_db"),
    "training": ("snr_active", "noise_level", "noise_weights", "remix", "band_limit", "clipping", "codec"),
}


class StudySpec(Section):
    """A whole study file, checked and completed with defaults."""

    study: StudySection
    corpus: CorpusSection
    training: TrainingSection = TrainingSection()
    limits: LimitsSection = LimitsSection()
    search: dict[str, search_space.CheckedDomain] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _together(self, info: ValidationInfo) -> StudySpec:
        for name, domain in self.search.items():
            if name not in PARAMETERS:
                raise ValueError(f"search.{unknown_key(name, PARAMETERS)}")
            problem = search_space.problem(name, domain)
            if problem:
                raise ValueError(f"search.{name}: {problem}")
        if not info.context and (problem := search_space.conflict(self.search)):
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
        domain = self.search.get("batch_size", DEFAULTS["batch_size"])
        values = domain.values() if isinstance(domain, search_space.Choices | search_space.Range) else [domain]
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
        full["search"] = {name: full["search"].get(name, DEFAULTS[name]) for name in sorted(DEFAULTS)}
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
        raise StudyFileError(
            f"{path}: no such file, expected a study file (TOML); check the path, or see `quell studies`"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise StudyFileError(f"{path}: {error}, expected a study file (TOML); mend it there") from None
    except ValidationError as error:
        raise StudyFileError(f"{path}: {first_objection(error, StudySpec)}") from None


def restore(resolved: dict[str, Any], name: str) -> StudySpec:
    """The specification of a stored study, from what it says of itself; its folders are not among that."""
    study = {**resolved["study"], "name": name, "trials": 1}
    # The presets lie in a search of which not every point could be trained.
    return StudySpec.model_validate({**resolved, "study": study}, context={"stored": True})


def validation_set(spec: StudySpec, corpus: Corpus, scorer: Scorer, move: Progress | None = None) -> EvaluationSet:
    """What the study's trials are scored on."""
    from quell.mixing.evaluation_mixtures import evaluation_set  # loads torch, which a study file needs not

    count, seed = spec.training.validation_mixtures, spec.study.seed
    return evaluation_set(corpus, "validation", count, spec.corpus.snr_db, seed, scorer, move)

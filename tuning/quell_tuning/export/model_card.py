"""The model card beside an exported file: its training data, scores and weak spots, its cost, how to load it."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from quell.atomic import EXISTS
from quell.corpus.memory_map import Corpus
from quell.errors import ExportError
from quell.export.cost import Cost
from quell.metrics.intrusive import UNITS
from quell_tuning.export.chosen_trial import ChosenTrial
from quell_tuning.export.validation_scores import (
    Validation,
    score_table,
    uncompared,
    weak_spots,
    weakest_noises,
)
from quell_tuning.formatting import number
from quell_tuning.markdown import plain_table

MARK = "<!-- model card, written by quell export -->"


@dataclass(frozen=True)
class ExportedTrial:
    """An exported file, and what its card is written from."""

    chosen: ChosenTrial
    costs: Cost
    rtf: float | None  # real-time factor of the file itself; None for a format that Quell does not run
    metadata: dict[str, Any]
    corpus: Corpus | None  # None when the decoded recordings are not on this machine
    validation: Validation | None  # None without a corpus

    @property
    def uncompared(self) -> str:
        """Why the file's scores were not compared with those of the trial; empty where they were."""
        return "" if self.validation is None else uncompared(self.validation, **self.metadata["validation"])


def check(card: Path, overwrite: bool) -> None:
    """Raises ExportError where a file is in the card's place; with `overwrite`, where that is no earlier card."""
    try:
        there = card.exists()
        ours = there and MARK in card.read_text(encoding="utf-8", errors="replace")
    except OSError:
        there, ours = True, False
    if ours and not overwrite:
        raise ExportError(f"{card}: {EXISTS}")
    if there and not ours:
        raise ExportError(f"{card}: not a model card, expected none or one of ours to replace; choose another -o")


def text(path: Path, exported: ExportedTrial) -> str:
    """The card of the file at `path`, in Markdown."""
    metadata, corpus, validation = exported.metadata, exported.corpus, exported.validation
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = (files("quell_tuning.export") / "model_card.md.jinja").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        vars(exported),
        mark=MARK,
        path=path,
        training=_training(metadata, corpus),
        splits=_split_table(corpus) if corpus else "",
        noises=sorted({clip.category for clip in corpus.splits["train"].of("noise")} - {""}) if corpus else [],
        scores=score_table(validation) if validation else _trial_scores(**metadata["validation"]),
        weak_spots=weak_spots,
        weakest_noises=weakest_noises,
        untrained=untrained(metadata, corpus),
    )


def _training(metadata: dict[str, Any], corpus: Corpus | None) -> str:
    """What it was trained on, in a sentence or more."""
    hours = metadata["training"]["rungs_audio_hours"][-1]
    low, high = metadata["training"]["snr_db"]
    pairs = corpus is not None and bool(corpus.splits["train"].of("noisy"))
    source = corpus.fingerprint if corpus else f"{metadata['corpus']}, whose recordings are not here"
    training = f"Corpus {source}; {hours:g} h of training audio, "
    training += "of pairs as they were recorded." if pairs else f"mixed from it at {low:g} to {high:g} dB SNR."
    if metadata.get("refit"):
        training += " It was trained on the recordings of train and validation."
    if metadata.get("skipped"):
        training += f" {metadata['skipped']} recordings with errors were left out."
    return training


def _split_table(corpus: Corpus) -> str:
    rows = []
    for split, data in corpus.splits.items():
        minutes = [f"{corpus.minutes(split, kind):.1f}" for kind in ("clean", "noise")]
        rows.append([split, *minutes, str(len({clip.group for clip in data.of("clean")}))])
    return plain_table(["split", "speech, min", "noise, min", "groups of speech"], rows)


def _trial_scores(noisy: dict[str, float], denoised: dict[str, float]) -> str:
    """A table of the scores that the trial ended with."""
    rows = [[f"{name} ({UNITS[name]})", number(name, noisy[name]), number(name, denoised[name])] for name in denoised]
    return plain_table(["", "noisy", "denoised"], rows)


def untrained(metadata: dict[str, Any], corpus: Corpus | None) -> list[str]:
    """Kinds of input that the training data lack, as far as they tell."""
    low, high = metadata["training"]["snr_db"]
    kinds = [f"noise louder than {low:g} dB SNR, or softer than {high:g} dB"]
    if corpus is not None:
        train = corpus.splits["train"]
        if train.of("noisy"):
            kinds = ["noise of other kinds, or louder, than in the pairs of recordings"]
        noises = sorted({clip.category for clip in train.of("noise")})
        if any(noises):
            kinds.append(f"noises other than {', '.join(noises)}")
        speakers = len({clip.group for clip in train.of("clean")})
        kinds.append(f"voices and languages other than those of {speakers} groups of speech")
        if not train.of("room") or metadata["training"].get("rooms") == 0:
            kinds.append("reverberation that was not recorded with the speech")
    kinds.append(f"sound above {metadata['sample_rate'] / 2000:g} kHz, which does not come back")
    return kinds

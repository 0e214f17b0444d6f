"""A model card names provenance, weak spots by the file's own scores, and what the training data lack."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quell_tuning.export import export_trial, model_card
from quell_tuning.export.chosen_trial import ChosenTrial
from quell_tuning.export.model_card import ExportedTrial, untrained
from quell_tuning.export.validation_scores import Validation, score_table, weak_spots, weakest_noises

from quell.corpus.memory_map import Corpus
from quell.errors import ExportError
from quell.export.cost import Cost
from quell.metrics.scorer import Scores

SNRS = (0.0, 20.0)
METADATA: dict[str, Any] = {
    "sample_rate": 8_000,
    "training": {"snr_db": (-5.0, 20.0), "rooms": 0.5, "rungs_audio_hours": [1.0], "seed": 7},
    "study": "mine",
    "spec_hash": "0123abcd",
    "corpus": "cafe",
    "commit": "",
    "licence": "CC0",
    "exported": "today",
    "quell": "1",
    "torch": "2",
}


@pytest.fixture
def validation(small_corpus: Corpus) -> Validation:
    """Two clips of each noise, one at each SNR: hum gains least, rumble loses at 20 dB, white gains most."""
    noises = {clip.category: clip.path for clip in small_corpus.splits["validation"].of("noise")}
    gains = {"hum": (0.1, 0.1), "rumble": (2.0, -0.5), "white": (2.0, 2.0)}
    labels = [f"a/1.wav + {noises[category]}" for category in gains for _ in SNRS]
    levels, zeros = np.array(list(SNRS) * len(gains)), np.zeros(2 * len(gains))
    gain = np.array([gain for pair in gains.values() for gain in pair])
    noisy = Scores({"pesq": 1 + zeros, "stoi": 0.5 + zeros, "si_sdr": levels}, levels, 0)
    denoised = Scores({"pesq": 1 + gain, "stoi": 0.5 + gain / 10, "si_sdr": levels + gain}, levels, 0)
    return Validation(noisy, denoised, labels)


@pytest.fixture
def exported(small_corpus: Corpus, validation: Validation) -> ExportedTrial:
    chosen = ChosenTrial("mine", None, "trial 3 of mine")  # type: ignore[arg-type]
    return ExportedTrial(chosen, Cost(10, 20.0, 30.0), None, METADATA, small_corpus, validation)


def test_the_snr_with_the_least_gain_and_the_worst_clip_are_named(validation: Validation) -> None:
    text = weak_spots(validation)
    assert "20 dB SNR: pesq +0.53 MOS-LQO, the least gain of all SNRs" in text
    assert "20 dB SNR, the highest: clips made worse in pesq 33%, stoi 33%, si_sdr 33%" in text
    assert "rumble" in text.split("the worst clip: ")[1].splitlines()[0]
    assert "at 20 dB SNR, si_sdr -0.50 dB" in text


def test_noises_are_listed_from_the_least_gain_on(validation: Validation, small_corpus: Corpus) -> None:
    assert weakest_noises(validation, small_corpus).splitlines() == [
        "| noise with least gain | clips | pesq | stoi | si_sdr | made worse (stoi) |",
        "|---|---|---|---|---|---|",
        "| hum | 2 | +0.10 | +0.010 | +0.10 | 0% |",
        "| rumble | 2 | +0.75 | +0.075 | +0.75 | 50% |",
        "| white | 2 | +2.00 | +0.200 | +2.00 | 0% |",
    ]


def test_scores_have_a_row_for_each_snr_with_the_interval_of_the_gain(validation: Validation) -> None:
    rows = score_table(validation).splitlines()
    assert [row.split(" |")[0] for row in rows] == [
        "| SNR, dB",
        "|---|---|---|---|",
        "| 0",
        "| 20",
        "| all",
        "| made worse",
    ]
    assert rows[2].startswith("| 0 | 1.00 -> 2.37, +1.37 [+0.10, +2.00] |")
    assert rows[-1] == "| made worse | 17% | 17% | 17% |"


def test_kinds_of_input_that_the_training_data_lack_are_listed(small_corpus: Corpus) -> None:
    speakers = len({clip.group for clip in small_corpus.splits["train"].of("clean")})
    assert untrained(METADATA, small_corpus) == [
        "noise louder than -5 dB SNR, or softer than 20 dB",
        "noises other than hum, rumble, white",
        f"voices and languages other than those of {speakers} groups of speech",
        "reverberation that was not recorded with the speech",
        "sound above 4 kHz, which does not come back",
    ]


def test_without_recordings_the_card_has_what_the_metadata_tell(exported: ExportedTrial) -> None:
    metadata = METADATA | {"validation": {"noisy": {"pesq": 1.0}, "denoised": {"pesq": 2.0}}}
    card = model_card.text(Path("best.pt"), replace(exported, metadata=metadata, corpus=None, validation=None))
    assert "| pesq (MOS-LQO) | 1.00 | 2.00 |" in card
    weak = card.partition("## Weak where\n\n")[2].partition("\n\n## ")[0]
    assert weak.splitlines() == [
        "Not in the training data:",
        "",
        "- noise louder than -5 dB SNR, or softer than 20 dB",
        "- sound above 4 kHz, which does not come back",
    ]


def test_a_card_names_licence_study_and_commit_and_leaves_out_what_is_not_known(exported: ExportedTrial) -> None:
    card = model_card.text(Path("best.pt"), exported)
    assert "Licence: CC0" in card
    assert "- study: `mine`, whose specification has the hash 0123abcd\n- recordings: corpus cafe\n- seed: 7" in card
    assert "commit" not in card and "## Weak where" in card
    with_commit = replace(exported, metadata=METADATA | {"commit": "abc1234+"})
    assert "- commit: abc1234+\n" in model_card.text(Path("best.pt"), with_commit)


def test_export_replaces_neither_a_file_nor_its_card_unless_told_to(tmp_path: Path) -> None:
    path, card = tmp_path / "best.pt", tmp_path / "best.md"
    assert export_trial.check(path, overwrite=False) == card
    needed = "exists already, expected a new file; remove it, or give --overwrite"
    for existing, text in ((card, model_card.MARK), (path, "weights")):
        existing.write_text(text)
        with pytest.raises(ExportError, match=f"^{existing}: {needed}$"):
            export_trial.check(path, overwrite=False)
    assert export_trial.check(path, overwrite=True) == card
    card.write_text("my notes")
    with pytest.raises(ExportError, match=r"best\.md: not a model card, expected none or one of ours to replace"):
        export_trial.check(path, overwrite=True)

"""The card says where a denoiser is weak, from its own scores and from what it was trained on."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quell_tuning.export import chosen_trial, export_trial, model_card, weaknesses
from quell_tuning.export.chosen_trial import Made, Validation

from quell.corpus.memory_map import Corpus
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


def validation(corpus: Corpus) -> Validation:
    """Two clips of each noise, one at each SNR: hum gains least, rumble loses at 20 dB, white gains most."""
    noises = {clip.category: clip.path for clip in corpus.splits["validation"].of("noise")}
    gains = {"hum": (0.1, 0.1), "rumble": (2.0, -0.5), "white": (2.0, 2.0)}
    labels = [f"a/1.wav + {noises[kind]}" for kind in gains for _ in SNRS]
    levels, zeros = np.array(list(SNRS) * len(gains)), np.zeros(2 * len(gains))
    gained = np.array([gain for pair in gains.values() for gain in pair])
    noisy = Scores({"pesq": 1 + zeros, "stoi": 0.5 + zeros, "si_sdr": levels}, levels, 0)
    denoised = Scores({"pesq": 1 + gained, "stoi": 0.5 + gained / 10, "si_sdr": levels + gained}, levels, 0)
    return Validation(noisy, denoised, labels)


@pytest.fixture
def made(small_corpus: Corpus) -> Made:
    chosen = chosen_trial.Chosen("mine", None, "trial 3 of mine")  # type: ignore[arg-type]
    return Made(chosen, Cost(10, 20.0, 30.0), None, METADATA, small_corpus, validation(small_corpus))


def test_snr_clip_and_noise_with_the_least_gain_are_named(made: Made) -> None:
    text = weaknesses.text(made)
    assert "20 dB SNR: pesq +0.53 MOS-LQO, the least gain of all SNRs" in text
    assert "20 dB SNR, the highest: clips made worse in pesq 33%, stoi 33%, si_sdr 33%" in text
    assert "rumble" in text.split("fares worst: ")[1].splitlines()[0]
    assert "at 20 dB SNR, si_sdr -0.50 dB" in text
    rows = [line for line in text.splitlines() if line.startswith(("| hum", "| rumble", "| white"))]
    assert rows == [
        "| hum | 2 | +0.10 | +0.010 | +0.10 | 0% |",
        "| rumble | 2 | +0.75 | +0.075 | +0.75 | 50% |",
        "| white | 2 | +2.00 | +0.200 | +2.00 | 0% |",
    ]


def test_what_was_never_heard_follows_from_the_training_data(made: Made, small_corpus: Corpus) -> None:
    speakers = len({clip.group for clip in small_corpus.splits["train"].of("clean")})
    assert weaknesses.unheard(METADATA, small_corpus) == [
        "noise louder than -5 dB SNR, or softer than 20 dB",
        "noises other than hum, rumble, white",
        f"voices and languages other than those of {speakers} groups of speech",
        "reverberation that was not recorded with the speech",
        "sound above 4 kHz, which does not come back",
    ]


def test_without_the_recordings_only_what_the_file_knows_is_said(made: Made) -> None:
    text = weaknesses.text(replace(made, corpus=None, validation=None))
    assert text.splitlines() == [
        "Never heard in training:",
        "",
        "- noise louder than -5 dB SNR, or softer than 20 dB",
        "- sound above 4 kHz, which does not come back",
    ]


def test_the_card_says_licence_study_and_commit_and_leaves_out_what_is_not_known(made: Made) -> None:
    shown = model_card.text(Path("best.pt"), made)
    assert "Licence: CC0" in shown
    assert "- study: `mine`, whose specification has the hash 0123abcd\n- recordings: corpus cafe\n- seed: 7" in shown
    assert "commit" not in shown and "## Weak where" in shown
    assert "- commit: abc1234+\n" in model_card.text(
        Path("best.pt"), replace(made, metadata=METADATA | {"commit": "abc1234+"})
    )


def test_the_commit_is_that_of_the_checkout_the_code_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    code = tmp_path / "code.py"
    code.write_text("a")
    monkeypatch.setattr(export_trial, "__file__", str(code))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert export_trial.commit() == ""  # no checkout at all
    git("init")
    assert export_trial.commit() == ""  # somebody else's, that the code is not part of
    git("add", ".")
    git("commit", "-m", "a")
    head = git("rev-parse", "--short", "HEAD")
    assert export_trial.commit() == head
    code.write_text("b")
    assert export_trial.commit() == f"{head}+"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert export_trial.commit() == ""  # no git

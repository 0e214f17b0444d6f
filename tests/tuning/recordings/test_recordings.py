"""`quell corpus check` and `preview`, and a search that refuses bad recordings or leaves them out."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import optuna
import program
import pytest
import soundfile
from PIL import Image
from quell_tuning.recordings import audit_report


@pytest.fixture
def place(tmp_path: Path, tiny_recordings: Path, tiny_study: str) -> Path:
    """A folder with tiny.toml and recordings of its own."""
    shutil.copytree(tiny_recordings, tmp_path / "recordings")
    text = tiny_study.replace("trials = 3", "trials = 1").replace("{ low = 2, high = 3 }", "3")
    (tmp_path / "tiny.toml").write_text(text)
    return tmp_path


@pytest.fixture
def quell(place: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return program.quell(*arguments, "--corpus", "recordings", cwd=place)

    return run


@pytest.fixture
def searched(quell: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., str]:
    """Creates or continues the study and runs its trials; returns what was printed before the first trial."""

    def search(*options: str) -> str:
        made = quell("tune", "tiny.toml", "--workers", "0", *options)
        assert made.returncode == 0, made.stderr
        worked = quell("worker", "tiny.toml")
        assert worked.returncode == 0, worked.stderr
        assert "ended" in worked.stderr and "left out" not in worked.stderr
        return made.stderr

    return search


def test_check_lists_minutes_files_and_classes_of_every_split(quell: Callable[..., subprocess.CompletedProcess[str]]):
    done = quell("corpus", "check", "tiny.toml", "--json")
    assert done.returncode == 0, done.stderr
    state = json.loads(done.stdout)
    assert (state["files"], state["errors"], state["sample_rate"]) == (24 + 16, 0, 8_000)
    splits = state["splits"].values()
    assert sum(split["speech"]["files"] for split in splits) == 24
    assert sum(split["speech"]["groups"] for split in splits) == 8
    assert sum(split["speech"]["minutes"] for split in splits) == pytest.approx(24 * 2 / 60, abs=0.02)
    assert all(split["noise"]["classes"] == ["brown", "white"] for split in splits)
    shown = quell("corpus", "check", "tiny.toml")
    assert shown.returncode == 0
    assert "40 recordings for 8000 Hz" in shown.stdout
    assert shown.stdout.splitlines()[-1].startswith("0 errors, ")


def test_check_fails_and_names_bad_recordings(place: Path, quell: Callable[..., subprocess.CompletedProcess[str]]):
    bad = place / "recordings" / "speech" / "s3" / "1.wav"
    bad.write_bytes(bad.read_bytes()[:5_000])
    shutil.copytree(place / "recordings" / "speech" / "s2", place / "recordings" / "speech" / "alias")
    done = quell("corpus", "check", "tiny.toml")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert any(line.startswith("error, unreadable: recordings/speech/s3/1.wav: ") for line in lines)
    assert sum(line.startswith("error, duplicate: ") for line in lines) == 3
    assert lines[-1].startswith("4 errors, ")


def test_check_draws_levels_durations_and_spectrograms(
    place: Path, quell: Callable[..., subprocess.CompletedProcess[str]]
):
    done = quell("corpus", "check", "tiny.toml", "--plot", "plots")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-2:] == ["plots/histograms.png", "plots/spectrograms.png"]
    for name, size in (("histograms", (1200, 600)), ("spectrograms", (1600, 1000))):
        with Image.open(place / "plots" / f"{name}.png") as picture:
            assert picture.size == size
            assert len(np.unique(np.asarray(picture.convert("L")))) > 50


def test_of_many_findings_of_a_kind_five_are_printed_and_the_others_counted() -> None:
    findings = [{"severity": "warning", "kind": "clipped", "recordings": [], "text": f"{i}.wav"} for i in range(7)]
    lines = audit_report.lines({"findings": findings, "errors": 0})
    assert lines == [
        *(f"warning, clipped: {i}.wav" for i in range(5)),
        "warning, clipped: and 2 more; --json has all",
        "0 errors, 7 warnings",
    ]


def test_preview_writes_mixtures_of_the_training(place: Path, quell: Callable[..., subprocess.CompletedProcess[str]]):
    done = quell("corpus", "preview", "tiny.toml", "-n", "4", "-o", "mixtures")
    assert done.returncode == 0, done.stderr
    written = sorted(path.name for path in (place / "mixtures").iterdir())
    assert len(written) == 16
    for noisy in done.stdout.split():
        parts = {part: soundfile.read(place / noisy.replace("noisy", part)) for part in ("noisy", "clean", "noise")}
        assert {(len(samples), rate) for samples, rate in parts.values()} == {(2_000, 8_000)}
        samples = {part: samples for part, (samples, _) in parts.items()}
        np.testing.assert_allclose(samples["noisy"], samples["clean"] + samples["noise"], atol=1e-4)  # 16 bits each
        snr_db = 10 * np.log10(np.square(samples["clean"]).sum() / np.square(samples["noise"]).sum())
        assert snr_db == pytest.approx(float(Path(noisy).name.split("_")[1].removesuffix("dB")), abs=0.15)
        assert -5.1 < snr_db < 20.1
        with Image.open(place / noisy.replace("noisy.wav", "picture.png")) as picture:
            assert picture.format == "PNG"
    again = quell("corpus", "preview", "tiny.toml", "-n", "4", "-o", "mixtures")
    assert again.returncode == 1 and "exists already, expected a folder without previews" in again.stderr


def spoil(place: Path) -> list[str]:
    """Makes three recordings unusable; their names."""
    speech = place / "recordings" / "speech"
    (speech / "s3" / "1.wav").write_text("no sound")
    shutil.copy(speech / "s2" / "0.wav", speech / "s4" / "copy.wav")
    soundfile.write(place / "recordings" / "noise" / "white" / "5.wav", [np.nan] * 8_000, 8_000, subtype="FLOAT")
    return ["clean/s3/1.wav", "noise/white/5.wav"]


def test_a_broken_link_is_left_out_as_other_broken_files_are(
    place: Path, quell: Callable[..., subprocess.CompletedProcess[str]]
):
    (place / "recordings" / "speech" / "s3" / "gone.wav").symlink_to(place / "nothing.wav")
    refused = quell("tune", "tiny.toml", "--workers", "1")
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].endswith(
        "; `quell corpus check` lists all, --skip-bad leaves such recordings out"
    )
    done = quell("tune", "tiny.toml", "--workers", "0", "--skip-bad")
    assert done.returncode == 0, done.stderr


def one_of(names: Sequence[str]) -> set[str]:
    return {"clean/s2/0.wav", "clean/s4/copy.wav"} & {*names}


def test_a_search_refuses_bad_recordings_and_leaves_them_out_with_skip_bad(
    place: Path, quell: Callable[..., subprocess.CompletedProcess[str]], searched: Callable[..., str]
):
    names = spoil(place)
    refused = quell("tune", "tiny.toml", "--workers", "1")
    assert refused.returncode == 1
    assert "(and 2 more errors); `quell corpus check` lists all, --skip-bad leaves" in refused.stderr.splitlines()[-1]
    assert not list((place / "runs" / "corpora").glob("*/index.json"))
    assert sum(line.startswith("left out: ") for line in searched("--skip-bad").splitlines()) == 3
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{place / 'runs' / 'quell.db'}")
    skipped = study.user_attrs["skipped"]
    assert {*names} < {*skipped} and len(one_of(skipped)) == 1 and len(skipped) == 3
    assert all(trial.state.is_finished() for trial in study.trials)
    # The study stores its exclusions: later commands need no --skip-bad.
    assert "left out" not in searched("--trials", "2")
    scored = quell("evaluate", "quell", "--study", "tiny.toml", "--mixtures", "6", "--json")
    assert scored.returncode == 0, scored.stderr


def test_recordings_decoded_by_a_preview_are_still_audited_by_a_search(
    place: Path, quell: Callable[..., subprocess.CompletedProcess[str]]
):
    speech = place / "recordings" / "speech"
    shutil.copy(speech / "s2" / "0.wav", speech / "s4" / "copy.wav")
    assert quell("corpus", "preview", "tiny.toml", "-n", "1", "-o", "mixtures").returncode == 0
    refused = quell("tune", "tiny.toml", "--workers", "1")
    assert refused.returncode == 1
    assert "the same audio as clean/s" in refused.stderr.splitlines()[-1]


def test_weights_of_absent_kinds_of_noise_are_an_error(
    place: Path, quell: Callable[..., subprocess.CompletedProcess[str]]
):
    text = (place / "tiny.toml").read_text().replace("[training]", "[training]\nnoise_weights = { snow = 2.0 }")
    (place / "tiny.toml").write_text(text)
    refused = quell("tune", "tiny.toml", "--workers", "1")
    assert refused.returncode == 1
    said = "quell: tiny.toml: training.noise_weights: 'snow', expected kinds of noise in training: brown, white; mend"
    assert said in refused.stderr.splitlines()[-1]


def test_a_split_that_is_too_short_is_an_error_despite_skip_bad(
    place: Path, quell: Callable[..., subprocess.CompletedProcess[str]]
):
    for path in (place / "recordings" / "speech").rglob("*.wav"):
        soundfile.write(path, np.random.default_rng(hash(path) % 2**32).uniform(-0.1, 0.1, 800), 8_000)
    refused = quell("tune", "tiny.toml", "--workers", "1", "--skip-bad")
    assert refused.returncode == 1
    assert "split: " in refused.stderr and "expected at least 3 s; add some" in refused.stderr


@pytest.fixture
def paired(place: Path) -> Path:
    """The place with noisy versions of its speech, and a study of pairs."""
    rng = np.random.default_rng(0)
    for path in sorted((place / "recordings" / "speech").rglob("*.wav")):
        clean, rate = soundfile.read(path)
        noisy = place / "recordings" / "noisy" / path.relative_to(place / "recordings" / "speech")
        noisy.parent.mkdir(parents=True, exist_ok=True)
        level = 10 ** (-rng.uniform(0, 15) / 20) * np.sqrt(np.mean(clean**2))
        soundfile.write(noisy, np.roll(clean, 40) + level * rng.standard_normal(len(clean)), rate)
    shutil.rmtree(place / "recordings" / "noise")
    text = (place / "tiny.toml").read_text().replace("[corpus]", '[corpus]\nnoisy = "noisy"\nremix = true')
    (place / "tiny.toml").write_text(text)
    return place


def test_a_study_of_pairs_runs_and_is_exported_and_evaluated(
    paired: Path, quell: Callable[..., subprocess.CompletedProcess[str]], searched: Callable[..., str]
):
    checked = quell("corpus", "check", "tiny.toml", "--plot", "plots")
    assert checked.returncode == 0, checked.stderr
    assert re.search(r"train: \d+ pairs at [\d.]+ to 1\d(\.\d)? dB SNR, median .*; up to 5 ms", checked.stdout)
    assert "min of speech, each with a noisy version" in searched()
    exported = program.quell("export", "tiny", "-o", "best.pt", cwd=paired)
    assert exported.returncode == 0, exported.stderr
    card = (paired / "best.md").read_text()
    assert "of pairs as they were recorded" in card and "than in the pairs of recordings" in card
    scored = quell("evaluate", "best.pt", "--study", "tiny.toml", "--json")
    assert scored.returncode == 0, scored.stderr
    table = json.loads(scored.stdout)
    assert f"test: {table['mixtures']} pairs at" in checked.stdout
    preview = quell("corpus", "preview", "tiny.toml", "-n", "2", "-o", "mixtures")
    assert preview.returncode == 0, preview.stderr

"""`quell evaluate`: tables, CSV and JSON have the same scores, gains and real-time factors."""

import csv
import io
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import typer
from numpy.typing import NDArray
from quell_tuning.cli.evaluate import evaluate
from quell_tuning.errors import TuningError, UsageError
from quell_tuning.evaluation import evaluate as evaluation
from quell_tuning.evaluation import systems, tables
from rich.console import Console
from torch import Tensor

from quell.corpus.memory_map import Corpus
from quell.errors import AudioError, CorpusError, ExportError, PackageError
from quell.evaluation import comparison
from quell.evaluation.test_sets import MixtureSet
from quell.export import exporter
from quell.export.blocks import Blocks
from quell.export.exported_model import Model
from quell.inference import pretrained
from quell.metrics import dnsmos
from quell.metrics.intrusive import ClipScore
from quell.metrics.scorer import Scorer
from quell.mixing.evaluation_mixtures import EvaluationSet
from quell.network.denoiser import Denoiser

Signal = NDArray[np.float32]
QUIET = Console(file=io.StringIO())
METRICS = ("pesq", "stoi", "estoi", "si_sdr")


class Identity(Model):
    """Returns its input, in blocks of 0.1 s."""

    def forward_block(self, noisy: Tensor, level: Tensor, state: Tensor, lead: int, mark: int) -> tuple[Tensor, Tensor]:
        return noisy, state


def identity(sample_rate: int) -> Model:
    blocks = {"grid": 8, "margin": 0, "context": 0, "block": sample_rate // 10, "state_units": 0}
    return Identity(sample_rate, {}, Blocks(**blocks))


def halved(samples: Signal, sample_rate: int) -> Signal:
    """Halves the samples below the median: neither good nor silent."""
    return np.where(np.abs(samples) > np.median(np.abs(samples)), samples, samples / 2).astype(np.float32)


def muted(samples: Signal, sample_rate: int) -> Signal:
    return np.zeros_like(samples)


Recordings = Callable[..., tuple[Path, Path]]


@pytest.fixture
def recordings(tmp_path: Path, speech: Callable[..., Signal], noise: Callable[..., Signal]) -> Recordings:
    """Writes pairs at 0, 5, 10, ... dB, stereo except the first; returns the noisy and the clean folder."""

    def write(count: int = 4, rate: int = 8_000) -> tuple[Path, Path]:
        for i in range(count):
            clean, added = speech(1.2, rate, seed=i), noise(1.2, rate, seed=i)
            added = added * np.sqrt(np.square(clean).sum() / np.square(added).sum()) * 10 ** (-i / 4)
            for folder, signal in (("noisy", clean + added), ("clean", clean)):
                path = tmp_path / folder / f"room{i % 2}" / f"{i}, take.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                stereo = np.stack([signal, 0.5 * signal], axis=1)
                soundfile.write(path, signal if i == 0 else stereo, rate, subtype="FLOAT")
        return tmp_path / "noisy", tmp_path / "clean"

    return write


@pytest.fixture
def model(tmp_path: Path, tiny_denoiser: Callable[..., Denoiser]) -> Path:
    exporter.export(tiny_denoiser(), tmp_path / "tiny.pt", {})
    return tmp_path / "tiny.pt"


def printed(state: dict[str, Any], width: int = 200) -> str:
    shown = io.StringIO()
    tables.show(state, Console(file=shown, width=width))
    return shown.getvalue()


def test_an_identity_scores_exactly_as_the_noisy_input(recordings: Recordings, scorer: Scorer) -> None:
    for rate in (8_000, 16_000):
        test_set = evaluation.of_folders(*recordings(rate=rate), QUIET)
        compared = {"same": systems.as_system(identity(rate))}
        state = comparison.summary(test_set, evaluation.compare(test_set, compared, scorer, QUIET))
        assert state["noisy"] == state["denoised"]
        assert all(row["noisy"] == row["denoised"] for row in state["by_snr"])
        assert state["gain"] == dict.fromkeys(METRICS, (0.0, 0.0, 0.0))
        assert state["worse"] == dict.fromkeys(METRICS, 0.0)


def test_recordings_of_a_kind_that_is_not_read_are_told(recordings: Recordings) -> None:
    noisy, clean = recordings()
    (noisy / "room0" / "b.m4a").write_bytes(b"sound")
    shown = io.StringIO()
    evaluation.of_folders(noisy, clean, Console(file=shown, width=80))
    assert shown.getvalue().startswith(f"quell: {noisy}: 1 files that are not read (1 .m4a), expected WAV, FLAC, ")


def test_an_identity_on_a_study_scores_as_the_noisy_mixtures(validation: EvaluationSet, scorer: Scorer) -> None:
    test_set = MixtureSet(validation)
    compared = {"same": systems.as_system(identity(8_000))}
    state = comparison.summary(test_set, evaluation.compare(test_set, compared, scorer, QUIET))
    assert state["noisy"] == state["denoised"] == validation.noisy_scores.means()
    assert [row["snr_db"] for row in state["by_snr"]] == [-5, 0, 5, 10, 15, 20]
    assert "6 test mixtures, 0.1 minutes, noisy -> denoised" in printed(state)
    assert "clips" not in printed(state)


@pytest.mark.parametrize("rate", [22_050, 44_100, 48_000])
def test_recordings_of_another_rate_are_resampled_for_the_models(
    recordings: Recordings, scorer: Scorer, rate: int
) -> None:
    test_set = evaluation.of_folders(*recordings(2, rate), QUIET)
    compared = {"wide": systems.as_system(identity(16_000)), "narrow": systems.as_system(identity(8_000))}
    noisy, wide, narrow = (result.scores for result in evaluation.compare(test_set, compared, scorer, QUIET))
    # Scores are of 16 kHz: resampling to it and back loses the edge of the band. At 8 kHz white noise loses half of
    # its energy, and speech some.
    assert wide.values["si_sdr"] == pytest.approx(noisy.values["si_sdr"], abs=0.5)
    assert (narrow.values["si_sdr"] > noisy.values["si_sdr"] + 1).all()


def test_rows_are_bins_of_measured_snr(recordings: Recordings, scorer: Scorer) -> None:
    test_set = evaluation.of_folders(*recordings(), QUIET)
    results = evaluation.compare(test_set, {"m": halved}, scorer, QUIET)
    state = comparison.summary(test_set, results)
    assert test_set.snr_db == pytest.approx([0, 10, 5, 15], abs=1e-3)  # by path; float32
    assert [(row["snr_db"], row["clips"]) for row in state["by_snr"]] == [(0, 1), (5, 1), (10, 1), (15, 1)]
    shown = printed(state)
    assert "4 pairs of recordings, 0.1 minutes, noisy -> denoised" in shown
    assert "measured SNR (dB, ± 2.5)" in shown
    assert "clips" in shown


def test_the_means_of_the_csv_equal_those_of_the_tables(recordings: Recordings, scorer: Scorer, tmp_path: Path) -> None:
    test_set = evaluation.of_folders(*recordings(), QUIET)
    results = evaluation.compare(test_set, {"tiny.pt": halved, "other": muted}, scorer, QUIET)
    state = json.loads(json.dumps(comparison.summary(test_set, results)))
    evaluation.write_csv(tmp_path / "out.csv", test_set, results)
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 4
    assert [row["file"] for row in rows[:4]] == ["room0/0, take.wav", "room0/2, take.wav", *test_set.labels[2:]]
    shown = printed(state)
    for system in state["systems"]:
        mine = [row for row in rows if row["system"] == system["system"]]
        assert [float(row["snr_db"]) for row in mine] == test_set.snr_db.tolist()
        assert [float(row["seconds"]) for row in mine] == [1.2] * 4
        for name in METRICS:
            mean = np.mean([float(row[name]) for row in mine])
            assert mean == pytest.approx(system["means"][name], abs=1e-12)
            assert f" {mean:.2f} " in shown or f" {mean:.3f} " in shown
        if system["system"] == "noisy":
            assert {row["rtf"] for row in mine} == {""}
        else:
            assert np.mean([float(row["rtf"]) for row in mine]) == pytest.approx(system["rtf"])


def test_every_system_has_a_row_with_gain_interval_and_share_made_worse(recordings: Recordings, scorer: Scorer) -> None:
    test_set = evaluation.of_folders(*recordings(), QUIET)
    results = evaluation.compare(test_set, {"m.pt": halved, "silent": muted}, scorer, QUIET)
    state = comparison.summary(test_set, results)
    noisy, model, silent = state["systems"]
    assert "gain" not in noisy
    assert silent["means"] == pytest.approx({"pesq": 1.0, "stoi": 0.0, "estoi": 0.0, "si_sdr": -80.0})
    assert silent["worse"]["stoi"] == 1.0
    for row in (model, silent):
        for name in METRICS:
            mean, low, high = row["gain"][name]
            assert mean == pytest.approx(row["means"][name] - noisy["means"][name])
            assert low <= mean <= high
        assert row["worse_at_highest_snr"]["si_sdr"] == float(
            row["by_snr"][-1]["si_sdr"] < noisy["by_snr"][-1]["si_sdr"]
        )
        assert [at["snr_db"] for at in row["by_snr"]] == [at["snr_db"] for at in state["by_snr"]]
    losses = [row["si_sdr"] - before["si_sdr"] for row, before in zip(silent["by_snr"], noisy["by_snr"], strict=True)]
    assert silent["worst"]["si_sdr"] == {"file": "room1/3, take.wav", "gain": pytest.approx(min(losses))}
    shown = printed(state)
    assert "made worse (stoi)" in shown
    assert "silent: 16 values could not be computed and count as the metric's worst" in shown


def test_a_single_model_has_no_table_by_system(recordings: Recordings, scorer: Scorer) -> None:
    test_set = evaluation.of_folders(*recordings(1), QUIET)
    results = evaluation.compare(test_set, {"m.pt": halved}, scorer, QUIET)
    assert "made worse (" not in printed(comparison.summary(test_set, results))


def test_a_narrow_terminal_shows_every_digit(recordings: Recordings, scorer: Scorer) -> None:
    test_set = evaluation.of_folders(*recordings(), QUIET)
    results = evaluation.compare(test_set, {"m.pt": halved, "other": halved}, scorer, QUIET)
    state = comparison.summary(test_set, results)

    def numbers(text: str) -> list[str]:
        words = text.replace("│", " ").replace("[", " ").replace("]", " ").replace(",", " ").split()
        return sorted(word for word in words if word.lstrip("+-").replace(".", "").isdigit())

    assert numbers(printed(state, 80)) == numbers(printed(state, 300))
    assert "…" not in printed(state, 80)


def spend(seconds: float) -> None:
    begun = time.thread_time()
    while time.thread_time() - begun < seconds:
        pass


def test_the_real_time_factor_is_cpu_time_without_the_first_call(recordings: Recordings, scorer: Scorer) -> None:
    test_set = evaluation.of_folders(*recordings(), QUIET)
    calls = []

    def slow_at_first(samples: Signal, sample_rate: int) -> Signal:
        calls.append(len(samples))
        time.sleep(0.1)  # wall time only
        spend(0.3 if len(calls) == 1 else 0.06)
        return samples

    result = comparison.measure("slow", slow_at_first, test_set, scorer, lambda done, of: None)
    assert len(calls) == 2 * (1 + 2 + 2 + 2)  # twice, each channel
    # 60 ms of 1.2 s per channel. On a shared core cache misses add up to 30 ms at once.
    assert result.rtf == pytest.approx([0.05, 0.1, 0.1, 0.1], rel=0.5)
    system = comparison.summary(test_set, [result, result])["systems"][1]
    assert system["rtf"] == pytest.approx(7 * 0.06 / 4.8, rel=0.5)
    assert system["rtf_new"] == pytest.approx((0.3 + 6 * 0.06) / 4.8, rel=0.5)
    assert system["first_call_s"] == pytest.approx(0.3, rel=0.5)


class FakeDNSMOS:
    """Stands in for the processes that compute DNSMOS: louder recordings score lower."""

    def run(self, jobs: Any, count: int, progress: Any) -> list[ClipScore]:
        loud = [float(np.abs(job.args[0]).mean()) for job in jobs]
        return [ClipScore(dict.fromkeys(dnsmos.NAMES, 5 - level), ()) for level in loud]


def test_without_clean_recordings_the_scores_are_dnsmos_estimates(
    recordings: Recordings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dnsmos, "require", lambda: None)
    test_set = evaluation.of_folders(recordings()[0], None, QUIET)
    results = evaluation.compare(test_set, {"m.pt": lambda samples, rate: samples / 2}, FakeDNSMOS(), QUIET)  # type: ignore[arg-type]
    state = json.loads(json.dumps(comparison.summary(test_set, results)))
    assert state["by_snr"] == []
    assert state["worse"] == dict.fromkeys(dnsmos.NAMES, 0.0)
    shown = printed(state)
    assert "DNSMOS estimates, no clean reference: 4 recordings, 0.1 minutes" in shown
    assert all(f"{name} (MOS)" in shown for name in ("sig", "bak", "ovrl", "p808"))
    assert "made worse (ovrl)" in shown
    evaluation.write_csv(tmp_path / "out.csv", test_set, results)
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["snr_db"] for row in rows} == {""}
    assert np.mean([float(row["ovrl"]) for row in rows[4:]]) == pytest.approx(state["denoised"]["ovrl"])


def test_dnsmos_runs_in_the_scoring_processes(recordings: Recordings, scorer: Scorer) -> None:
    for package in dnsmos.PACKAGES:
        pytest.importorskip(package)
    test_set = evaluation.of_folders(recordings(1, 16_000)[0], None, QUIET)
    results = evaluation.compare(test_set, {"mute": muted}, scorer, QUIET)
    assert all(1 < results[0].scores.mean(name) < 5 for name in dnsmos.NAMES)
    assert results[1].scores.means() == dict.fromkeys(dnsmos.NAMES, 1.0)


def test_a_csv_file_is_replaced_only_with_overwrite_and_never_half_written(
    recordings: Recordings, scorer: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.csv"
    path.write_text("mine")
    with pytest.raises(TuningError, match=r"out\.csv: exists already, expected a new file"):
        evaluation.check_csv(path, overwrite=False)
    evaluation.check_csv(path, overwrite=True)
    for wrong in (tmp_path, tmp_path / "no" / "out.csv"):
        with pytest.raises(TuningError, match=f"{wrong}: not a file in an existing folder"):
            evaluation.check_csv(wrong, overwrite=True)
    test_set = evaluation.of_folders(*recordings(1), QUIET)
    results = evaluation.compare(test_set, {"m.pt": halved}, scorer, QUIET)

    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(evaluation, "_rows", full)
        with pytest.raises(TuningError, match=r"out\.csv: No space left on device, expected a file that can be"):
            evaluation.write_csv(path, test_set, results)
    assert path.read_text() == "mine"
    assert list(tmp_path.glob(".out*")) == []


def test_the_command_prints_tables_or_json_and_writes_the_csv(
    recordings: Recordings, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noisy, clean = recordings(2)
    path = tmp_path / "out.csv"
    assert evaluate([str(model)], noisy=noisy, clean=clean, table=path) == 0
    out, err = capsys.readouterr()
    assert "2 pairs of recordings" in out
    assert "real-time factor of tiny.pt on one thread" in out
    assert err == ""
    with path.open(newline="") as file:
        assert [row["system"] for row in csv.DictReader(file)] == ["noisy", "noisy", "tiny.pt", "tiny.pt"]
    assert evaluate([str(model)], noisy=noisy, clean=clean, as_json=True) == 0
    state = json.loads(capsys.readouterr().out)
    assert [row["system"] for row in state["systems"]] == ["noisy", "tiny.pt"]
    assert state["mixtures"] == 2


def test_baselines_are_compared_by_name(
    recordings: Recordings, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("noisereduce")
    pytest.importorskip("pyrnnoise")
    noisy, clean = recordings(2)
    names = "spectral-gate, rnnoise,noisy"
    assert evaluate([str(model)], noisy=noisy, clean=clean, baseline=names, as_json=True) == 0
    state = json.loads(capsys.readouterr().out)
    assert [row["system"] for row in state["systems"]] == ["noisy", "tiny.pt", "spectral-gate", "rnnoise"]
    assert all(row["rtf"] > 0 for row in state["systems"][1:])


def test_exported_and_third_party_models_share_a_table(
    recordings: Recordings, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = torch.jit.trace(torch.nn.Identity(), torch.zeros(1, 100))
    module.save(str(tmp_path / "theirs.pt"))
    noisy, clean = recordings(2)
    shutil.copy(model, tmp_path / "ours.pt")
    names = [str(tmp_path / "ours.pt"), f"{tmp_path / 'theirs.pt'}@8000", "quell"]
    assert evaluate(names, noisy=noisy, clean=clean, as_json=True) == 0
    state = json.loads(capsys.readouterr().out)
    assert [row["system"] for row in state["systems"]] == ["noisy", "ours.pt", "theirs.pt@8000", "quell"]
    assert state["denoised"] == state["systems"][1]["means"]
    assert state["systems"][2]["means"] == state["noisy"]
    with pytest.raises(ExportError, match=r"theirs\.pt: states no sample rate, expected one; add it, as in .*@16000"):
        systems.named_systems([str(tmp_path / "theirs.pt")])
    with pytest.raises(UsageError, match=r"^tiny\.pt: two systems of that name, expected one; rename a file$"):
        systems.named_systems([str(model), str(model)])


def test_without_a_model_the_included_one_for_the_sample_rate_is_evaluated(
    recordings: Recordings, capsys: pytest.CaptureFixture[str]
) -> None:
    for rate in (8_000, 16_000):
        noisy, clean = recordings(1, rate)
        assert evaluate(noisy=noisy, clean=clean, as_json=True) == 0
        without = json.loads(capsys.readouterr().out)
        assert evaluate([str(pretrained.path(rate))], noisy=noisy, clean=clean, as_json=True) == 0
        named = json.loads(capsys.readouterr().out)
        assert [row["system"] for row in without["systems"]] == ["noisy", "quell"]
        assert without["denoised"] == named["denoised"]
        (of_study,) = systems.named_systems([], rate)
        assert of_study.model is not None and of_study.model.sample_rate == rate


def test_a_model_of_another_rate_is_an_error_and_one_of_another_corpus_a_warning(small_corpus: Corpus) -> None:
    shown = Console(file=io.StringIO(), width=200)
    one = systems.NamedSystem("m.pt", halved, identity(16_000))
    with pytest.raises(TuningError, match=r"^m\.pt: a model of 16000 Hz, expected that of the study, 8000 Hz; "):
        evaluation.check_models([one], small_corpus, shown)
    known = replace(identity(8_000), metadata={"corpus": small_corpus.fingerprint})
    others = [systems.NamedSystem("theirs", halved), systems.NamedSystem("known.pt", halved, known)]
    evaluation.check_models([*others, systems.NamedSystem("m.pt", halved, identity(8_000))], small_corpus, shown)
    assert shown.file.getvalue().strip() == f"quell: m.pt: {evaluation.OTHER_CORPUS}"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "neither given, expected one of them"),
        ({"study": Path("s.toml"), "noisy": Path("n")}, "both given, expected one of them"),
        ({"study": Path("s.toml"), "clean": Path("c")}, "c, expected it with --noisy"),
        ({"noisy": Path("n"), "baseline": "rnnoise,spleeter"}, "'spleeter', expected some of noisy, spectral-gate"),
        ({"noisy": Path("n"), "baseline": ""}, "'', expected some of noisy, spectral-gate, rnnoise"),
    ],
)
def test_wrong_usage_is_an_error_before_any_file_is_opened(options: dict[str, Any], message: str) -> None:
    with pytest.raises(typer.BadParameter) as caught:
        evaluate(["nowhere.pt"], **options)
    assert message in str(caught.value)


def test_an_error_names_the_file_that_cannot_be_evaluated(
    recordings: Recordings, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy, clean = recordings(2)
    with pytest.raises(ExportError, match=r"nowhere\.pt: no such file"):
        evaluate([str(tmp_path / "nowhere.pt")], noisy=noisy, clean=clean)
    (clean / "room1" / "1, take.wav").rename(tmp_path / "away.wav")
    with pytest.raises(CorpusError, match=r"room1/1, take\.wav: no clean partner, expected .*clean/room1/1, take\.\*"):
        evaluate([str(model)], noisy=noisy, clean=clean)
    (clean / "room1" / "1, take.wav").write_text("not a sound")
    with pytest.raises(AudioError, match=r"clean/room1/1, take\.wav: "):
        evaluate([str(model)], noisy=noisy, clean=clean)
    monkeypatch.setattr(dnsmos, "find_spec", lambda name: None)
    with pytest.raises(PackageError, match=r"pip install 'quell-denoiser\[dnsmos\]'"):
        evaluate([str(model)], noisy=noisy)

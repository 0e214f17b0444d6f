"""All trials of a study have the same clips, stored to 16 bits, once; a failing store never fails a trial."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import optuna
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from optuna.artifacts import ArtifactMeta, FileSystemArtifactStore, get_all_artifact_meta
from optuna.trial import FrozenTrial
from quell_tuning.artifacts import clip_picture, gallery
from quell_tuning.artifacts.gallery import copy_clips, showcase, store_study_clips, store_trial_clips
from quell_tuning.errors import StorageError
from quell_tuning.optuna_private import storage_of, trial_id_of
from quell_tuning.storage.retrying import RetryingStorage

from quell.audio import FloatArray
from quell.metrics.scorer import Scores
from quell.mixing import evaluation_mixtures
from quell.mixing.evaluation_mixtures import EvaluationSet

RATE = 8_000
LEVELS = np.linspace(-5, 20, 6)
NOISES = ("rain", "dog", "sea", "clock", "train")


def mixtures(
    count: int = 24, seconds: float = 0.5, levels: NDArray[np.float64] = LEVELS, rate: int = RATE
) -> EvaluationSet:
    """Mixtures of seven speakers and five noises in turn: white noise with peaks at half of full scale."""
    rng = np.random.default_rng(0)
    clean, noisy = [], []
    for clip in range(count):
        pair = rng.standard_normal((2, round(seconds * rate) + clip))
        pair *= 0.5 / np.abs(pair).max()
        noisy.append(pair[0].astype(np.float32))
        clean.append(pair[1].astype(np.float32))
    labels = [f"s{clip % 7}/{clip}.flac + {NOISES[clip % 5]}/1-{clip}-A.ogg" for clip in range(count)]
    snr_db = np.resize(levels, count)
    scores = Scores({"pesq": rng.uniform(1, 2, count), "si_sdr": rng.uniform(-5, 20, count)}, snr_db, 0)
    return EvaluationSet(rate, noisy, clean, labels, snr_db, scores)


MIXTURES = mixtures()


def half(noisy: torch.Tensor) -> torch.Tensor:
    return 0.5 * noisy


class Folder(FileSystemArtifactStore):
    """A store that lists its files, and fails with `error` when that is set."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder
        self.error: Exception | None = None

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        if self.error is not None:
            raise self.error
        super().write(artifact_id, content_body)

    def files(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}

    def audio(self, artifact_id: str) -> tuple[FloatArray, int]:
        with self.open_reader(artifact_id) as file:
            info = soundfile.info(file)
            assert (info.format, info.subtype, info.channels) == ("WAV", "PCM_16", 1)
            file.seek(0)
            return soundfile.read(file, dtype="float32")


@pytest.fixture
def store(tmp_path: Path) -> Folder:
    folder = tmp_path / "artifacts"
    folder.mkdir()
    return Folder(folder)


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study(study_name="s", direction="maximize")


def with_gallery(
    study: optuna.Study, store: Folder, denoise: Callable[[torch.Tensor], torch.Tensor] = half
) -> FrozenTrial:
    """An ended trial of the study, with its gallery."""
    trial = study.ask()
    store_trial_clips(trial, store_study_clips(study, MIXTURES, store), MIXTURES, denoise, MIXTURES.noisy_scores, store)
    study.tell(trial, 1.0)
    return study.trials[trial.number]


def listed(study: optuna.Study, of: FrozenTrial | optuna.Study) -> dict[str, ArtifactMeta]:
    """The artifacts that the dashboard lists, by name, in its order."""
    metas = get_all_artifact_meta(of, storage=storage_of(study))
    return {meta.filename: meta for meta in sorted(metas, key=lambda meta: meta.filename)}


def speakers_and_noises(mixtures: EvaluationSet) -> tuple[list[str], list[str]]:
    clips = [mixtures.labels[clip].split(" + ") for clip in showcase(mixtures)]
    return [clean.split("/")[0] for clean, _ in clips], [noise.split("/")[0] for _, noise in clips]


@pytest.mark.parametrize("grid", [LEVELS, np.linspace(0, 5, 4), np.linspace(-10, 30, 12)])
def test_the_clips_span_all_snrs_with_different_noises_and_speakers(
    grid: NDArray[np.float64],
) -> None:
    many = mixtures(48, 0.01, grid)
    snrs = many.snr_db[showcase(many)]
    assert (snrs[0], snrs[-1]) == (grid[0], grid[-1])
    assert np.abs(snrs - np.linspace(grid[0], grid[-1], 4)).max() <= (grid[1] - grid[0]) / 2
    for names in speakers_and_noises(many):
        assert len(set(names)) == 4


def test_noises_differ_where_choosing_clip_by_clip_would_repeat_one() -> None:
    more = mixtures(12, 0.01)
    # Two clips at each SNR. The dog of 0 would leave nothing new at the second SNR, where there are dogs only.
    found = dict(enumerate(["dog", "x", "dog", "rain", "x", "rain", "rain", "x", "dog", "sea", "x", "clock"]))
    more.labels[:] = [f"s/{clip}.flac + {found[clip]}/{clip}.ogg" for clip in range(12)]
    assert showcase(more) == [6, 2, 9, 11]


def test_the_same_set_has_the_same_showcase() -> None:
    assert showcase(mixtures()) == showcase(mixtures()) == showcase(MIXTURES)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_of_a_small_set_no_clip_is_chosen_twice(count: int) -> None:
    for levels in (LEVELS, np.array([7.0]), np.array([-5.0, -5.0, -5.0, 20.0])):
        clips = showcase(mixtures(count, 0.01, levels))
        assert len(clips) == len(set(clips)) == min(4, count)


def test_the_showcase_describes_its_clips(study: optuna.Study, store: Folder) -> None:
    store_study_clips(study, MIXTURES, store)
    clips = study.user_attrs["showcase"]
    assert [entry["clip"] for entry in clips] == showcase(MIXTURES)
    for entry in clips:
        clip = entry["clip"]
        assert (entry["label"], entry["snr_db"]) == (MIXTURES.labels[clip], MIXTURES.snr_db[clip])
        assert entry["seconds"] == pytest.approx(len(MIXTURES.clean[clip]) / RATE, abs=0.005)
        for name, value in entry["scores"].items():
            assert value == pytest.approx(MIXTURES.noisy_scores.values[name][clip], abs=1e-4)


def test_audio_is_that_of_mixtures_and_denoiser_to_16_bits(study: optuna.Study, store: Folder) -> None:
    trial = with_gallery(study, store)
    step = 1 / 32768
    for entry, own in zip(study.user_attrs["showcase"], trial.user_attrs["gallery"], strict=True):
        noisy, clean = MIXTURES.noisy[entry["clip"]], MIXTURES.clean[entry["clip"]]
        for artifact, expected in ((entry["noisy"], noisy), (entry["clean"], clean), (own["denoised"], 0.5 * noisy)):
            samples, rate = store.audio(artifact)
            assert (rate, len(samples)) == (RATE, len(expected))
            np.testing.assert_allclose(samples, expected, rtol=0, atol=step / 2 + 1e-7)


def test_noisy_and_clean_are_stored_once_for_all_trials(study: optuna.Study, store: Folder) -> None:
    trials = [with_gallery(study, store) for _ in range(3)]
    assert len(store.files()) == 2 * 4 + 3 * 2 * 4
    entries = [entry for trial in trials for entry in trial.user_attrs["gallery"]]
    own = {entry[key] for entry in entries for key in ("denoised", "picture")}
    shared = {entry[side] for entry in study.user_attrs["showcase"] for side in ("noisy", "clean")}
    assert store.files() == shared | own
    assert {meta.artifact_id for meta in listed(study, study).values()} == shared


def test_a_trial_lists_every_clip_as_noisy_denoised_clean_and_picture_in_this_order(
    study: optuna.Study, store: Folder
) -> None:
    trial = with_gallery(study, store)
    metas = listed(study, trial)
    names = list(metas)
    assert [name.split(",")[0] for name in names] == [
        f"{clip}{side}" for clip in (1, 2, 3, 4) for side in ("a noisy", "b denoised", "c clean", "d picture")
    ]
    assert names[0] == "1a noisy, -5 dB, rain.wav"
    assert names[15].startswith("4d picture, 20 dB, ") and names[15].endswith(".png")
    kinds = [(meta.mimetype, meta.encoding) for meta in metas.values()]
    assert kinds == [*[("audio/wav", None)] * 3, ("image/png", None)] * 4
    assert {meta.artifact_id for meta in metas.values()} == store.files()


def test_file_names_are_safe_for_any_name_of_a_noise() -> None:
    for noise, name in (
        ("a:b*?<c>|\\\"d'/1.ogg", "a_b___c____d_"),
        ("雨/1.ogg", "雨"),
        ("x" * 90 + "/1.ogg", "x" * 40),
    ):
        clip = {"label": f"s/1.flac + {noise}", "snr_db": 2.5}
        assert gallery._name(1, "clean", clip) == f"1c clean, 2.5 dB, {name}.wav"
    loose = {"label": "1.flac + hiss.wav", "snr_db": 0.0}
    assert gallery._name(2, "picture", loose) == "2d picture, 0 dB, hiss.png"


def test_scores_of_a_clip_are_in_the_gallery_and_in_the_pictures_title(
    study: optuna.Study, store: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[str] = []
    monkeypatch.setattr(gallery, "picture", lambda clips, rate, title: titles.append(title) or b"png")
    clips, trial = store_study_clips(study, MIXTURES, store), study.ask()
    better = Scores({name: values + 1 for name, values in MIXTURES.noisy_scores.values.items()}, MIXTURES.snr_db, 0)
    store_trial_clips(trial, clips, MIXTURES, half, better, store)
    for entry, own, title in zip(clips, trial.user_attrs["gallery"], titles, strict=True):
        before, after = entry["scores"], own["scores"]
        assert after == {name: pytest.approx(value + 1) for name, value in before.items()}
        assert f"{entry['snr_db']:g} dB SNR: {entry['label']}" in title
        assert f"PESQ {before['pesq']:.2f} → {after['pesq']:.2f}" in title
        assert f"SI-SDR {before['si_sdr']:.1f} → {after['si_sdr']:.1f} dB" in title
        assert "STOI" not in title  # which was not computed


def test_the_picture_has_the_three_versions_of_the_clip(study: optuna.Study, store: Folder) -> None:
    trial = with_gallery(study, store)
    entry, own = study.user_attrs["showcase"][1], trial.user_attrs["gallery"][1]
    noisy, clean = (MIXTURES.noisy[entry["clip"]], MIXTURES.clean[entry["clip"]])
    expected = clip_picture.picture(
        clip_picture.ClipSignals(noisy, 0.5 * noisy, clean), RATE, gallery._title(2, entry, own["scores"], 4)
    )
    with store.open_reader(own["picture"]) as file:
        assert file.read() == expected


def test_storing_again_changes_nothing(study: optuna.Study, store: Folder) -> None:
    clips = store_study_clips(study, MIXTURES, store)
    assert store_study_clips(study, MIXTURES, store) == clips
    trial = study.ask()
    store_trial_clips(trial, clips, MIXTURES, half, MIXTURES.noisy_scores, store)
    files, attributes = store.files(), storage_of(study).get_trial(trial_id_of(trial))
    store_trial_clips(trial, clips, MIXTURES, half, MIXTURES.noisy_scores, store)
    again = storage_of(study).get_trial(trial_id_of(trial))
    assert store.files() == files and len(listed(study, study)) == 8
    assert (again.user_attrs, again.system_attrs) == (attributes.user_attrs, attributes.system_attrs)


def test_of_two_workers_that_store_at_once_the_slower_uses_the_clips_of_the_other(
    storage: RetryingStorage, store: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = optuna.create_study(storage=storage, study_name="s")
    other = optuna.load_study(storage=storage, study_name="s")
    stored, faster = gallery._stored, []

    def overtaken(*arguments: Any) -> ArtifactMeta:
        monkeypatch.setattr(gallery, "_stored", stored)
        faster.extend(store_study_clips(other, MIXTURES, store))
        return stored(*arguments)

    monkeypatch.setattr(gallery, "_stored", overtaken)
    assert store_study_clips(study, MIXTURES, store) == faster == study.user_attrs["showcase"]
    assert len(listed(study, study)) == 8 and len(store.files()) == 16


def test_a_trial_of_the_same_configuration_has_the_same_gallery(study: optuna.Study, store: Folder) -> None:
    ended = with_gallery(study, store)
    files = store.files()
    trial = study.ask()
    copy_clips(trial, ended)
    study.tell(trial, 1.0)
    again = study.trials[trial.number]
    assert again.user_attrs["gallery"] == ended.user_attrs["gallery"]
    assert listed(study, again) == listed(study, ended)
    assert store.files() == files


def test_a_copy_of_a_trial_without_gallery_has_none(study: optuna.Study) -> None:
    study.tell(study.ask(), 1.0)
    trial = study.ask()
    copy_clips(trial, study.trials[0])
    assert trial.user_attrs == {}


def test_output_beyond_full_scale_is_clipped(study: optuna.Study, store: Folder) -> None:
    trial = with_gallery(study, store, lambda noisy: 4 * noisy)
    for entry, own in zip(study.user_attrs["showcase"], trial.user_attrs["gallery"], strict=True):
        samples, _ = store.audio(own["denoised"])
        expected = np.clip(4 * MIXTURES.noisy[entry["clip"]], -1, 1 - 1 / 32768)
        np.testing.assert_allclose(samples, expected, rtol=0, atol=1 / 32768)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_output_that_is_not_finite_is_stored_as_silence(
    study: optuna.Study, store: Folder, value: float, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(noisy: torch.Tensor) -> torch.Tensor:
        output = noisy.clone()
        output[:, -1] = value
        return output

    with caplog.at_level(logging.WARNING, "quell"):
        trial = with_gallery(study, store, broken)
    assert "trial 0, clip 1: the denoised signal is not finite" in caplog.text
    for entry, own in zip(study.user_attrs["showcase"], trial.user_attrs["gallery"], strict=True):
        samples, _ = store.audio(own["denoised"])
        assert len(samples) == len(MIXTURES.noisy[entry["clip"]]) and not samples.any()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), StorageError("bucket: away"), KeyError("x")])
def test_a_trial_without_a_working_store_has_no_gallery_and_goes_on(
    study: optuna.Study, store: Folder, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    store.error = error
    with caplog.at_level(logging.WARNING, "quell"):
        assert store_study_clips(study, MIXTURES, store) == []
        lost = with_gallery(study, store)
    assert (lost.user_attrs, lost.system_attrs, study.user_attrs) == ({}, {}, {})
    store.error = None
    clips = store_study_clips(study, MIXTURES, store)
    store.error, trial = error, study.ask()
    caplog.clear()
    with caplog.at_level(logging.WARNING, "quell"):
        store_trial_clips(trial, clips, MIXTURES, half, MIXTURES.noisy_scores, store)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"trial {trial.number} has no gallery: {type(error).__name__}: ")
    assert trial.user_attrs == {}
    store.error = None
    assert len(with_gallery(study, store).user_attrs["gallery"]) == 4  # as if it had never failed


def test_a_trial_whose_denoiser_runs_out_of_memory_has_no_gallery_and_goes_on(
    study: optuna.Study, store: Folder
) -> None:
    def too_large(_: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    trial = with_gallery(study, store, too_large)
    assert (trial.value, trial.user_attrs) == (1.0, {})


def test_a_trial_that_another_worker_ended_gets_no_gallery(study: optuna.Study, store: Folder) -> None:
    clips, trial = store_study_clips(study, MIXTURES, store), study.ask()
    study.tell(trial.number, 1.0)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        store_trial_clips(trial, clips, MIXTURES, half, MIXTURES.noisy_scores, store)


def test_a_trial_stores_no_more_than_its_docstring_says(study: optuna.Study, store: Folder) -> None:
    rate = 16_000
    longest = mixtures(4, evaluation_mixtures.LONGEST_S - 3 / rate, rate=rate)  # noise, which cannot be compressed
    clips = store_study_clips(study, longest, store)
    before = store.files()
    store_trial_clips(study.ask(), clips, longest, half, longest.noisy_scores, store)
    of_trial = sum((store.folder / name).stat().st_size for name in store.files() - before)
    of_study = sum((store.folder / name).stat().st_size for name in before)
    assert of_trial <= 4 * (1000 * clip_picture.LARGEST_KB + 2 * evaluation_mixtures.LONGEST_S * rate + 100) < 2.3e6
    assert of_study <= 8 * (2 * evaluation_mixtures.LONGEST_S * rate + 100) < 2.1e6


def test_attributes_are_short(study: optuna.Study, store: Folder) -> None:
    trial = with_gallery(study, store)
    assert len(json.dumps(trial.user_attrs)) < 1000  # reading a study reads those of all its trials
    assert len(json.dumps(trial.system_attrs)) < 4500

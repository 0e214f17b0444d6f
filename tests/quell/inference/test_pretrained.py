"""Whoever names no model gets the one that comes with the package, and of its two the one that fits the recording."""

from __future__ import annotations

import re

import numpy as np
import pytest
import soundfile

import quell
from quell.errors import ExportError
from quell.export.exported_model import load
from quell.export.exporter import export
from quell.inference import batch, enhancement, pretrained
from quell.inference.jobs import DenoiseJob, DenoiseOptions

MOST_BYTES = 4.5e6
RATES = [rate for rate, name in pretrained.FILES.items() if (pretrained.FOLDER / name).exists()]


@pytest.fixture
def two(tmp_path, monkeypatch, tiny_denoiser):
    """A folder with two models in the place of those that are shipped."""
    folder = tmp_path / "models"
    folder.mkdir()
    for seed, (rate, name) in enumerate(pretrained.FILES.items()):
        export(tiny_denoiser(seed, sample_rate=rate), folder / name, {})
    monkeypatch.setattr(pretrained, "FOLDER", folder)
    return folder


def test_the_package_has_a_denoiser_of_16_khz():
    assert 16_000 in RATES


@pytest.mark.parametrize("rate", RATES)
def test_a_shipped_denoiser_has_its_rate_fits_into_a_wheel_and_answers_in_kind(rate):
    path = pretrained.path(rate)
    assert path.name == pretrained.FILES[rate] and path.stat().st_size < MOST_BYTES
    assert quell.load(sample_rate=rate).sample_rate == rate
    noisy = 0.1 * np.random.default_rng(0).standard_normal((rate + 1, 2)).astype(np.float32)
    clean = quell.denoise(noisy, rate)
    assert clean.shape == noisy.shape and 0 < np.square(clean).mean() < np.square(noisy).mean()


@pytest.mark.parametrize("rate", RATES)
def test_the_card_of_a_shipped_denoiser_says_where_it_comes_from_and_where_it_is_weak(rate):
    path = pretrained.path(rate)
    card, metadata = path.with_suffix(".md").read_text(), load(path).metadata
    assert metadata["licence"] and f"Licence: {metadata['licence']}" in card
    assert metadata["spec_hash"] in card and metadata["corpus"] in card
    weak = card.partition("## Weak where")[2].partition("\n## ")[0]
    assert "made worse" in weak and "Never heard in training" in weak


@pytest.mark.parametrize(
    ("rate", "fits"), [(4_000, 8_000), (8_000, 8_000), (8_001, 16_000), (16_000, 16_000), (48_000, 16_000)]
)
def test_the_lowest_rate_that_loses_nothing_of_a_recording_is_chosen(two, rate, fits):
    assert pretrained.path(rate) == two / pretrained.FILES[fits]
    assert pretrained.fitting(rate).sample_rate == fits
    noisy = 0.1 * np.random.default_rng(0).standard_normal(rate // 2).astype(np.float32)
    expected = enhancement.denoise(noisy, rate, load(two / pretrained.FILES[fits]))
    assert np.array_equal(quell.denoise(noisy, rate), expected)


def test_a_model_that_is_named_is_taken_instead(two, model, loaded):
    noisy = 0.1 * np.random.default_rng(0).standard_normal(4_000).astype(np.float32)
    assert np.array_equal(quell.denoise(noisy, 16_000, loaded), enhancement.denoise(noisy, 16_000, loaded))
    assert quell.load(model).metadata == loaded.metadata != quell.load().metadata
    assert quell.load().sample_rate == 16_000


@pytest.mark.parametrize("processes", [0, 2])
def test_every_recording_of_a_folder_gets_the_model_of_its_rate(tmp_path, write, processes):
    sources = [write(tmp_path / "in" / f"{rate}.wav", rate=rate) for rate in (8_000, 16_000, 44_100)]
    jobs = [DenoiseJob(source, tmp_path / "out" / source.name) for source in sources]
    assert not any(done.error for done in batch.run(jobs, None, DenoiseOptions(), processes))
    for job in jobs:
        noisy, rate = soundfile.read(job.source, dtype="float32")
        made, _ = soundfile.read(job.target, dtype="float32")
        assert np.abs(made - quell.denoise(noisy, rate)).max() <= 1 / 32_768  # one step of 16 bits


def test_a_tree_without_the_models_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    said = f"^{re.escape(str(tmp_path))}/quell-16k.pt: no such file, expected the denoiser that comes with Quell; "
    for call in (quell.load, lambda: quell.denoise(np.zeros(9, np.float32), 16_000)):
        with pytest.raises(ExportError, match=said + "install the package again, or name a model$"):
            call()
    with pytest.raises(ExportError, match=r"quell-8k\.pt: no such file"):
        pretrained.paths()

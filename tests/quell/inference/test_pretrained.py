"""Without a model, the pretrained denoiser that fits the recording's rate is used."""

from __future__ import annotations

import re

import numpy as np
import pytest
import soundfile

import quell
from quell.errors import ExportError
from quell.export.exported_model import load
from quell.export.exporter import export
from quell.inference import pretrained, process_pool, waveform
from quell.inference.jobs import DenoiseJob, DenoiseOptions

MOST_BYTES = 4.5e6
RATES = [rate for rate, name in pretrained.FILES.items() if (pretrained.FOLDER / name).exists()]


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny_denoiser):
    """A folder with two models under the names of those that are shipped."""
    folder = tmp_path_factory.mktemp("models")
    for seed, (rate, name) in enumerate(pretrained.FILES.items()):
        export(tiny_denoiser(seed, sample_rate=rate), folder / name, {})
    return folder


@pytest.fixture
def two(models, monkeypatch):
    """That folder, in the place of the shipped one."""
    monkeypatch.setattr(pretrained, "FOLDER", models)
    return models


def test_the_package_has_a_denoiser_of_16_khz():
    assert 16_000 in RATES


@pytest.mark.parametrize("rate", RATES)
def test_a_pretrained_denoiser_has_its_rate_is_small_and_keeps_shapes(rate):
    path = pretrained.path(rate)
    assert path.name == pretrained.FILES[rate] and path.stat().st_size < MOST_BYTES
    assert quell.load(sample_rate=rate).sample_rate == rate
    noisy = 0.1 * np.random.default_rng(0).standard_normal((rate + 1, 2)).astype(np.float32)
    clean = quell.denoise(noisy, rate)
    assert clean.shape == noisy.shape and 0 < np.square(clean).mean() < np.square(noisy).mean()


@pytest.mark.parametrize("rate", RATES)
def test_the_card_of_a_pretrained_denoiser_states_provenance_and_weaknesses(rate):
    path = pretrained.path(rate)
    card, metadata = path.with_suffix(".md").read_text(), load(path).metadata
    assert metadata["licence"] and f"Licence: {metadata['licence']}" in card
    assert metadata["spec_hash"] in card and metadata["corpus"] in card
    weak = card.partition("## Weak where")[2].partition("\n## ")[0]
    assert "made worse" in weak and "Never heard in training" in weak


@pytest.mark.parametrize(
    ("rate", "fits"), [(4_000, 8_000), (8_000, 8_000), (8_001, 16_000), (16_000, 16_000), (48_000, 16_000)]
)
def test_the_lowest_rate_that_keeps_the_whole_band_is_chosen(two, rate, fits):
    assert pretrained.path(rate) == two / pretrained.FILES[fits]
    assert pretrained.fitting(rate).sample_rate == fits
    noisy = 0.1 * np.random.default_rng(0).standard_normal(rate // 2).astype(np.float32)
    expected = waveform.denoise(noisy, rate, load(two / pretrained.FILES[fits]))
    assert np.array_equal(quell.denoise(noisy, rate), expected)


def test_a_given_model_is_used_instead(two, model, loaded):
    noisy = 0.1 * np.random.default_rng(0).standard_normal(4_000).astype(np.float32)
    assert np.array_equal(quell.denoise(noisy, 16_000, loaded), waveform.denoise(noisy, 16_000, loaded))
    assert quell.load(model).metadata == loaded.metadata != quell.load().metadata
    assert quell.load().sample_rate == 16_000


def test_each_recording_of_a_folder_is_denoised_by_the_model_of_its_rate(tmp_path, write):
    sources = [write(tmp_path / "in" / f"{rate}.wav", rate=rate) for rate in (8_000, 16_000, 44_100)]
    jobs = [DenoiseJob(source, tmp_path / "out" / source.name) for source in sources]
    assert not any(done.error for done in process_pool.denoise(jobs, None, DenoiseOptions(), 2))
    for job in jobs:
        noisy, rate = soundfile.read(job.source, dtype="float32")
        output, _ = soundfile.read(job.target, dtype="float32")
        assert np.abs(output - quell.denoise(noisy, rate)).max() <= 1 / 32_768  # one step of 16 bits


def test_a_missing_model_file_is_reported_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    message = f"^{re.escape(str(tmp_path))}/quell-16k.pt: no such file, expected the denoiser that comes with Quell; "
    for call in (quell.load, lambda: quell.denoise(np.zeros(9, np.float32), 16_000)):
        with pytest.raises(ExportError, match=message + "install the package again, or name a model$"):
            call()
    with pytest.raises(ExportError, match=r"quell-8k\.pt: no such file"):
        pretrained.paths()

"""Presets: each trains, is scored and exports, at both rates of PESQ."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from quell_tuning.study import search_space
from quell_tuning.study.parameters import PARAMETERS
from quell_tuning.study.presets import DEFAULT, PRESETS

from quell.config import TrainingConfig
from quell.corpus.memory_map import Corpus
from quell.corpus.recordings import CorpusConfig
from quell.corpus.store import prepare
from quell.export import exporter
from quell.export.exported_model import load
from quell.metrics.scorer import Scorer
from quell.mixing.evaluation_mixtures import evaluation_set
from quell.network.denoiser import Denoiser
from quell.training.training_loop import train


@pytest.fixture(scope="module", params=[8_000, 16_000], ids=["8 kHz", "16 kHz"])
def corpus(
    request: pytest.FixtureRequest, small_config: CorpusConfig, tmp_path_factory: pytest.TempPathFactory
) -> Corpus:
    return prepare(replace(small_config, sample_rate=request.param), tmp_path_factory.mktemp("store"))


def test_the_presets_are_six_published_designs_and_phase_unet() -> None:
    published = {"residual-unet", "logspec-unet", "mask-unet", "plain-cnn", "compressed-unet", "recurrent-unet"}
    assert set(PRESETS) == published | {"phase-unet"} and DEFAULT in published


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_legal_and_complete(name: str) -> None:
    point = PRESETS[name]
    assert set(point) == set(PARAMETERS)
    assert {search_space.problem(key, value) for key, value in point.items()} == {None}
    assert search_space.conflict(dict(point)) is None


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_trains_is_scored_and_exports(name: str, corpus: Corpus, scorer: Scorer, tmp_path: Path) -> None:
    model = search_space.denoiser_config(PRESETS[name], corpus.sample_rate)
    base = TrainingConfig(segment_s=0.5, rungs_audio_hours=(4 / 3600,), snr_db=(0.0, 10.0))
    config = search_space.training_config(PRESETS[name], base, 0, model)  # 2 steps
    validation = evaluation_set(corpus, "validation", 6, (-5.0, 20.0), 3, scorer).first(1)
    trained = train(model, config, corpus, validation, scorer)
    assert {"pesq", "stoi", "estoi", "si_sdr"} <= set(trained.scores.values)
    assert (trained.iou is None) == (PRESETS[name]["representation"] != "log")
    exporter.export(trained.denoiser, tmp_path / "model.pt", {})
    noisy = torch.from_numpy(validation.noisy[0])
    gap = load(tmp_path / "model.pt")(noisy) - trained.denoiser(noisy[None])[0].detach()
    assert gap.abs().max() <= 1e-5  # float32 sums in another order


def test_residual_unet_has_128_bins_and_128_frames_per_second() -> None:
    model = search_space.denoiser_config(PRESETS["residual-unet"], 8_000)
    assert (model.win_length, model.hop_length) == (255, 63)
    denoiser = Denoiser(model)
    assert denoiser.spectrogram(torch.zeros(1, 7_872)).shape == (1, 128, 128)
    # The published 8064 samples: our analysis adds frames at the ends, 128 are centred inside.
    frames = denoiser.spectrogram(torch.zeros(1, 8_064)).shape[-1]
    centres = [63 * frame - (255 - 63) + 127 for frame in range(frames)]
    assert sum(0 <= centre < 8_064 for centre in centres) == 128
    convolutions = [module for module in denoiser.network.encoder.modules() if isinstance(module, torch.nn.Conv2d)]
    assert len(convolutions) == 10


def test_networks_have_their_stated_numbers_of_parameters() -> None:
    sizes = {
        name: sum(
            weight.numel() for weight in Denoiser(search_space.denoiser_config(PRESETS[name], 16_000)).parameters()
        )
        for name in ("recurrent-unet", "compressed-unet", "phase-unet")
    }
    assert sizes == {"recurrent-unet": 496_621, "compressed-unet": 201_585, "phase-unet": 651_611}

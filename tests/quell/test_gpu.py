"""On a GPU: the same denoiser, trained there. Skipped where there is none."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from quell_tuning.study import search_space
from quell_tuning.study.presets import PRESETS

from quell.config import DenoiserConfig, TrainingConfig
from quell.training.trainer import Trainer
from quell.training.training_loop import train

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]

GPU = torch.device("cuda")
MODEL = DenoiserConfig(sample_rate=8_000, win_length=64, hop_length=32, depth=2, base_channels=4, kernel_bins=3)
CONFIG = TrainingConfig(batch_size=4, segment_s=0.5, rungs_audio_hours=(8 / 3600, 16 / 3600))


@pytest.mark.parametrize("bottleneck", ["none", "frequency", "forward", "both"])
def test_a_denoiser_on_a_gpu_answers_as_on_a_cpu(tiny_denoiser, bottleneck):
    denoiser = tiny_denoiser(bottleneck=bottleneck, bottleneck_units=8)
    noisy = 0.1 * torch.randn(2, 30_000)
    with torch.inference_mode():
        expected = denoiser(noisy)
        found = denoiser.to(GPU)(noisy.to(GPU)).cpu()
    # TF32 rounds products to 10 bits, where it is allowed.
    assert (found - expected).abs().max() <= 1e-3 * expected.abs().max()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_learns_on_a_gpu_in_bfloat16(small_corpus, name):
    model = search_space.denoiser_config(PRESETS[name], small_corpus.sample_rate)
    config = search_space.training_config(PRESETS[name], CONFIG, 0, model)
    trainer = Trainer(model, config, small_corpus, GPU)
    assert trainer.mixed == torch.cuda.is_bf16_supported()
    before = next(trainer.denoiser.parameters()).detach().clone()
    trainer.step()
    assert not torch.equal(next(trainer.denoiser.parameters()), before)


def test_a_training_interrupted_on_a_gpu_goes_on_from_its_checkpoint(small_corpus, validation, scorer, tmp_path):
    model = replace(MODEL, dropout=0.3, bottleneck="forward", bottleneck_units=4)
    path = tmp_path / "trial.checkpoint"

    def stop(hours, loss):
        if hours > 9 / 3600:
            raise InterruptedError

    def run(**settings):
        return train(model, CONFIG, small_corpus, validation.first(2), scorer, metric="si_sdr", device=GPU, **settings)

    with pytest.raises(InterruptedError):
        run(on_step=stop, checkpoint=path)
    gone_on, whole = run(checkpoint=path), run()
    # Sums in another order at each run: GPU kernels add atomically.
    assert gone_on.scores.mean("si_sdr") == pytest.approx(whole.scores.mean("si_sdr"), abs=0.2)

"""An exported denoiser in another process gives the samples that it gives here, and is ended when it does not end."""

from __future__ import annotations

import json
import multiprocessing
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quell.errors import ExportError
from quell.export import model_process
from quell.export.exported_model import Model
from quell.export.torchscript import METADATA
from quell.inference.waveform import denoise


class Endless(nn.Module):
    """Looks like an exported denoiser, and computes for ever."""

    def forward(self, noisy: Tensor) -> Tensor:
        return noisy

    @torch.jit.export
    def carry_on(self, noisy: Tensor, level: Tensor, state: Tensor, lead: int, mark: int) -> tuple[Tensor, Tensor]:
        count = 0
        while noisy.dim() > 0:
            count += 1
        return noisy, state


def test_a_model_in_another_process_gives_the_same_samples_and_says_its_time(model: Path, loaded: Model) -> None:
    noisy = 0.1 * np.random.default_rng(0).standard_normal((20_000, 2)).astype(np.float32)
    remote = model_process.load(model, threads=1)
    try:
        assert remote.metadata == loaded.metadata and remote.blocks == loaded.blocks
        assert np.abs(denoise(noisy, 8_000, remote) - denoise(noisy, 8_000, loaded)).max() < 1e-6
        assert remote.cpu_s() > 0
    finally:
        remote.close()


def test_a_model_that_never_ends_is_ended_by_the_limit(
    tmp_path: Path, loaded: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "theirs.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Endless()).save(str(path), _extra_files={METADATA: json.dumps(loaded.metadata)})
    monkeypatch.setattr(model_process, "BLOCK_LIMIT_S", 1.0)
    before = set(multiprocessing.active_children())
    remote = model_process.load(path)
    with pytest.raises(ExportError, match=r"theirs\.pt: no answer in 1 s, expected a denoiser that runs; leave it out"):
        denoise(np.ones(100, np.float32), 8_000, remote)
    assert set(multiprocessing.active_children()) <= before


def test_a_model_that_cannot_be_loaded_is_named_as_it_is_here(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"none\.pt: no such file, expected an exported denoiser"):
        model_process.load(tmp_path / "none.pt")

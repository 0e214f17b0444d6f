"""An exported denoiser, loaded: TorchScript or ONNX, whole signals or signals that come in pieces."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quell.errors import ExportError
from quell.export.blocks import Blocks, span
from quell.export.torchscript import METADATA, quiet
from quell.levels import rms


@dataclass(frozen=True)
class Model(ABC):
    """An exported denoiser. Call it with a waveform at `sample_rate`."""

    sample_rate: int  # Hz
    metadata: dict[str, Any]  # what the file says of itself
    blocks: Blocks

    def __call__(self, noisy: Tensor) -> Tensor:
        """Clean waveform; silence gives silence, and g times the input g times the answer.

        Shape:
            noisy: (T,) or (B, T) float, T >= 0. Returns the same, as float32.
        """
        batch = noisy.to(torch.float32).reshape(1 if noisy.dim() == 1 else len(noisy), -1)
        if noisy.numel() == 0:
            return batch.reshape(noisy.shape)
        stream = Stream(self, rms(batch).squeeze(1).tolist())
        return torch.cat([*stream.push(batch), *stream.finish()], dim=-1).reshape(noisy.shape)

    @abstractmethod
    def forward_block(
        self, noisy: Tensor, level: Tensor, state: Tensor, context_frames: int, state_frame: int
    ) -> tuple[Tensor, Tensor]:
        """A block of a longer signal, as `Denoiser.forward_block`."""


@dataclass(frozen=True)
class TorchModel(Model):
    """A TorchScript file."""

    module: torch.jit.ScriptModule

    def __call__(self, noisy: Tensor) -> Tensor:
        with torch.inference_mode():
            return self.module(noisy)  # type: ignore[no-any-return]

    def forward_block(
        self, noisy: Tensor, level: Tensor, state: Tensor, context_frames: int, state_frame: int
    ) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            return self.module.carry_on(noisy, level, state, context_frames, state_frame)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class OnnxModel(Model):
    """An ONNX file, run by ONNX Runtime."""

    session: Any  # onnxruntime.InferenceSession

    def forward_block(
        self, noisy: Tensor, level: Tensor, state: Tensor, context_frames: int, state_frame: int
    ) -> tuple[Tensor, Tensor]:
        given = {"noisy": noisy.numpy(), "level": level.numpy()}
        if self.blocks.state_units == 0:
            return torch.from_numpy(self.session.run(["clean"], given)[0]), state
        given |= {"state": state.numpy(), "lead": np.array(context_frames), "mark": np.array(state_frame)}
        clean, state = map(torch.from_numpy, self.session.run(["clean", "next_state"], given))
        return clean, state


class Stream:
    """A signal that comes in pieces at a level that is known: what comes out is the result of one pass over the whole.

    Holds one block and its context, whatever the signal's length.

    Args:
        levels: the rms of each channel over the whole signal.
    """

    def __init__(self, model: Model, levels: Sequence[float]) -> None:
        self.model = model
        self.levels = [torch.full((1, 1), level) for level in levels]
        self.states = [torch.zeros(1, 1, model.blocks.state_units) for _ in levels]
        self.held = torch.zeros(len(levels), 0)
        self.begin = 0  # place of the first sample that is held
        self.start = 0  # of the block that comes next

    def push(self, samples: Tensor) -> Iterator[Tensor]:
        """Takes the next samples (C, n); yields what is done, (C, m) each."""
        self.held = torch.cat([self.held, samples], dim=1)
        blocks = self.model.blocks
        while self.start + blocks.block + blocks.context <= self.begin + self.held.shape[1]:
            yield self._block(self.start + blocks.block + blocks.context)

    def finish(self) -> Iterator[Tensor]:
        """Yields the rest."""
        length = self.begin + self.held.shape[1]
        while self.start < length:
            yield self._block(length)

    def _block(self, length: int) -> Tensor:
        blocks = self.model.blocks
        begin, end, context_frames, state_frame = span(self.start, length, *blocks[:4])
        done = []
        for channel, level in enumerate(self.levels):  # one after the other: memory is that of one
            noisy = self.held[channel : channel + 1, begin - self.begin : end - self.begin]
            clean, self.states[channel] = self.model.forward_block(
                noisy, level, self.states[channel], context_frames, state_frame
            )
            done.append(clean[:, self.start - begin : self.start - begin + blocks.block])
        self.start += blocks.block
        first = max(self.start - blocks.context, 0)
        self.held = self.held[:, first - self.begin :].clone()
        self.begin = first
        return torch.cat(done)


def load(path: Path | str) -> Model:
    """An exported denoiser (TorchScript, or ONNX with onnxruntime installed), on the CPU.

    Raises:
        ExportError: the file is missing or is not one of ours, or onnxruntime is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise ExportError(f"{path}: no such file, expected an exported denoiser; make one with `quell export`")
    try:
        return _onnx(path) if path.suffix == ".onnx" else _torchscript(path)
    except ExportError:
        raise
    except Exception as error:  # both runtimes raise whatever the bytes make them raise
        raise ExportError(f"{path}: not an exported denoiser, expected a file made by `quell export`") from error


def _torchscript(path: Path) -> TorchModel:
    extra = {METADATA: ""}
    with quiet():
        module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)
    metadata = json.loads(extra[METADATA])
    return TorchModel(int(metadata["sample_rate"]), metadata, Blocks(**metadata["blocks"]), module.eval())


def _onnx(path: Path) -> OnnxModel:
    try:
        import onnxruntime
    except ImportError:
        raise ExportError(
            f"{path}: an ONNX file, expected onnxruntime to be installed; pip install 'quell-denoiser[onnx]'"
        ) from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of every input that has a default
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    metadata = json.loads(session.get_modelmeta().custom_metadata_map[METADATA])
    return OnnxModel(int(metadata["sample_rate"]), metadata, Blocks(**metadata["blocks"]), session)

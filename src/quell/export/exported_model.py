"""Loads an exported denoiser, TorchScript or ONNX, and runs it on whole signals or on streams.

A TorchScript file is a program: `quell.export.script_check` says what it may not do. It runs in this process, which it
may keep busy for ever; `quell.export.model_process` runs it in another one.
"""

import json
import os
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quell import check_sums
from quell.audio.limits import RATES
from quell.errors import ExportError
from quell.export.blocks import Blocks, span
from quell.export.script_check import read_checked
from quell.export.torchscript import METADATA, quiet
from quell.levels import rms

# Most that metadata may ask for: 256 MB for a block or its context, 4 MB for a state.
MOST_SAMPLES = 1 << 26
MOST_UNITS = 1 << 20
REMEDY = "export it again"


@dataclass(frozen=True)
class Model(ABC):
    """An exported denoiser. Call it with a waveform at `sample_rate`."""

    sample_rate: int  # Hz
    metadata: dict[str, Any]  # of the file
    blocks: Blocks
    path: Path | None = field(default=None, kw_only=True)  # of the file

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process loads the file again, so that a model can be an argument of a task for one."""
        if self.path is None:
            raise TypeError("a model without a file cannot be pickled; export it, then pass what quell.load returns")
        return load, (self.path,)

    def __call__(self, noisy: Tensor) -> Tensor:
        """Clean waveform of (T,) or (B, T) float, T >= 0; returned alike, float32.

        Silence gives silence, and scaling the input scales the output.
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
        """One block of a longer signal, as `Denoiser.forward_block`."""


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
    process: int = field(default_factory=os.getpid, init=False, compare=False)

    def _run(self, outputs: list[str], inputs: dict[str, Any]) -> list[Any]:
        if self.process != os.getpid() and self.path is not None:  # a fork has the session, but not its threads
            object.__setattr__(self, "session", onnx_session(self.path, threads=1))
            object.__setattr__(self, "process", os.getpid())
        found: list[Any] = self.session.run(outputs, inputs)
        return found

    def forward_block(
        self, noisy: Tensor, level: Tensor, state: Tensor, context_frames: int, state_frame: int
    ) -> tuple[Tensor, Tensor]:
        inputs = {"noisy": noisy.numpy(), "level": level.numpy()}
        if self.blocks.state_units == 0:
            return torch.from_numpy(self._run(["clean"], inputs)[0]), state
        inputs |= {"state": state.numpy(), "lead": np.array(context_frames), "mark": np.array(state_frame)}
        clean, state = map(torch.from_numpy, self._run(["clean", "next_state"], inputs))
        return clean, state


class Stream:
    """Denoises a signal piece by piece, given the rms of each channel, with the result of one pass over the whole.

    Memory holds one block and its context, whatever the length of the signal.
    """

    def __init__(self, model: Model, levels: Sequence[float]) -> None:
        self.model = model
        self.levels = [torch.full((1, 1), level) for level in levels]
        self.states = [torch.zeros(1, 1, model.blocks.state_units) for _ in levels]
        self.buffer = torch.zeros(len(levels), 0)
        self.begin = 0  # sample of the signal that is first in the buffer
        self.start = 0  # first sample of the next block

    def push(self, samples: Tensor) -> Iterator[Tensor]:
        """Takes the next samples (C, n); yields the blocks that they complete, (C, m) each."""
        self.buffer = torch.cat([self.buffer, samples], dim=1)
        blocks = self.model.blocks
        while self.start + blocks.block + blocks.context <= self.begin + self.buffer.shape[1]:
            yield self._block(self.start + blocks.block + blocks.context)

    def finish(self) -> Iterator[Tensor]:
        """Yields the remaining blocks."""
        length = self.begin + self.buffer.shape[1]
        while self.start < length:
            yield self._block(length)

    def _block(self, length: int) -> Tensor:
        blocks = self.model.blocks
        begin, end, context_frames, state_frame = span(self.start, length, blocks)
        channels = []
        for channel, level in enumerate(self.levels):  # one after the other, with the memory of one
            noisy = self.buffer[channel : channel + 1, begin - self.begin : end - self.begin]
            clean, self.states[channel] = self.model.forward_block(
                noisy, level, self.states[channel], context_frames, state_frame
            )
            channels.append(clean[:, self.start - begin : self.start - begin + blocks.block])
        self.start += blocks.block
        first = max(self.start - blocks.context, 0)
        self.buffer = self.buffer[:, first - self.begin :].clone()
        self.begin = first
        return torch.cat(channels)


def load(path: Path | str) -> Model:
    """An exported denoiser, TorchScript or ONNX by its suffix, on the CPU. Errors as of `quell.load`."""
    path = Path(path)
    require_file(path)
    try:
        check_sums.check(path)
        return _onnx(path) if path.suffix.lower() == ".onnx" else _torchscript(path)
    except ExportError:
        raise
    except check_sums.DamagedFileError as error:
        raise ExportError(f"{path}: damaged, expected the bytes that were exported; get or export it again") from error
    except Exception as error:  # both runtimes raise any type of error on damaged bytes
        raise ExportError(f"{path}: not an exported denoiser, expected a file made by `quell export`") from error


def require_file(path: Path) -> None:
    """Raises ExportError where there is no such file."""
    if not path.is_file():
        raise ExportError(f"{path}: no such file, expected an exported denoiser; make one with `quell export`")


def _torchscript(path: Path) -> TorchModel:
    extra = {METADATA: ""}
    with quiet():
        module = torch.jit.load(read_checked(path), map_location="cpu", _extra_files=extra)
    metadata, rate, blocks = _checked(path, extra[METADATA])
    return TorchModel(rate, metadata, blocks, module.eval(), path=path.absolute())


def _checked(path: Path, text: str) -> tuple[dict[str, Any], int, Blocks]:
    """Metadata, sample rate and blocks of a file; raises ExportError for values that no export writes."""
    metadata = json.loads(text)
    rate = _whole(path, metadata, "sample_rate", *RATES)
    given = metadata["blocks"]
    _whole(path, given, "grid", 1, MOST_SAMPLES)
    _whole(path, given, "margin", 0, MOST_SAMPLES)
    _whole(path, given, "context", 0, MOST_SAMPLES)
    _whole(path, given, "block", 1, MOST_SAMPLES)
    _whole(path, given, "state_units", 0, MOST_UNITS)
    blocks = Blocks(**given)
    if blocks.block % blocks.grid:
        raise ExportError(f"{path}: blocks of {blocks.block} samples, expected a multiple of {blocks.grid}; {REMEDY}")
    return metadata, rate, blocks


def _whole(path: Path, values: dict[str, Any], name: str, low: int, high: int) -> int:
    value = values[name]
    if type(value) is not int or not low <= value <= high:  # bool is an int
        raise ExportError(
            f"{path}: {name} {reprlib.repr(value)}, expected a whole number from {low} to {high}; {REMEDY}"
        )
    return value


def onnx_session(path: Path, threads: int | None = None) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU, with torch's number of threads unless given.

    Raises ExportError if onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ExportError(
            f"{path}: an ONNX file, expected onnxruntime to be installed; pip install 'quell-denoiser[onnx]'"
        ) from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of every input that has a default
    options.intra_op_num_threads = threads or torch.get_num_threads()
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _onnx(path: Path) -> OnnxModel:
    session = onnx_session(path)
    metadata, rate, blocks = _checked(path, session.get_modelmeta().custom_metadata_map[METADATA])
    return OnnxModel(rate, metadata, blocks, session, path=path.absolute())

"""An exported denoiser in a process of its own: a file of somebody else is a program that may never end."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from quell.child_processes.remote_function import RemoteError, RemoteFunction
from quell.errors import ExportError
from quell.export import exported_model
from quell.export.blocks import Blocks
from quell.export.exported_model import Model

# For a block of 4 to 16 s, of which a slow network needs a second.
BLOCK_LIMIT_S = 120.0


@dataclass(frozen=True)
class RemoteModel(Model):
    """A model whose blocks another process computes. Close it when done."""

    function: RemoteFunction

    def forward_block(
        self, noisy: Tensor, level: Tensor, state: Tensor, context_frames: int, state_frame: int
    ) -> tuple[Tensor, Tensor]:
        arrays = (noisy.numpy(), level.numpy(), state.numpy())
        try:
            clean, state_after = self.function(*arrays, context_frames, state_frame, limit_s=BLOCK_LIMIT_S)
        except RemoteError as error:
            ended(self.path, error)
        return torch.from_numpy(clean), torch.from_numpy(state_after)

    def cpu_s(self) -> float:
        """CPU time of all blocks so far."""
        return self.function.cpu_s

    def close(self) -> None:
        self.function.close()


def load(path: Path, threads: int | None = None) -> RemoteModel:
    """As `quell.export.exported_model.load`, in another process.

    Args:
        threads: with which it computes; if omitted, torch's choice.

    Raises:
        ExportError: from here and from each block: also where the process is killed, or takes longer than 2 minutes.
    """
    exported_model.require_file(path)
    try:
        function = RemoteFunction(_make, path, threads)
    except RemoteError as error:
        ended(path, error)
    rate, metadata, blocks = function.facts
    return RemoteModel(rate, metadata, Blocks(*blocks), function, path=path.absolute())


def ended(path: Path | None, error: RemoteError) -> NoReturn:
    """Raises ExportError for a model whose process does not answer."""
    raise ExportError(f"{path}: {error}, expected a denoiser that runs; leave it out") from error


def _make(path: Path, threads: int | None) -> tuple[Any, Callable[..., Any]]:
    if threads is not None:
        torch.set_num_threads(threads)
    model = exported_model.load(path)

    def forward_block(noisy: Any, level: Any, state: Any, context_frames: int, state_frame: int) -> tuple[Any, Any]:
        tensors = (torch.from_numpy(noisy), torch.from_numpy(level), torch.from_numpy(state))
        clean, state_after = model.forward_block(*tensors, context_frames, state_frame)
        return clean.numpy(), state_after.numpy()

    return (model.sample_rate, model.metadata, tuple(model.blocks)), forward_block

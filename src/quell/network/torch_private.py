"""Private names of torch that Quell uses, as read in torch 2.13; look here first when a new version of torch fails."""

import io
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch


def has_amx_tiles() -> bool:
    """Whether this CPU multiplies bfloat16 in tiles (AMX). False where this torch does not tell."""
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)  # no public name tells it
    return supported is not None and bool(supported())


def sizes_of_one_stay_dynamic() -> AbstractContextManager[Any]:
    """For `torch.export.export`: by default it takes sizes of 0 and 1 for constants, and the exported program would
    refuse signals of a single frame."""
    from torch.fx.experimental import _config

    context: AbstractContextManager[Any] = _config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    return context


def records(archive: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and content of each record of an archive of torch, as `torch.jit.load` finds them; Python's zipfile may see
    other files in the same bytes. Raises RuntimeError where it is no archive."""
    reader = torch._C.PyTorchFileReader(io.BytesIO(archive))
    for name in reader.get_all_records():
        yield name, reader.get_record(name)

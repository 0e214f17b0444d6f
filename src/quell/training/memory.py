"""Too little memory, which torch, its libraries, NumPy and the system each report in their own way."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# In the text of a RuntimeError: of the allocator of CPU memory, on Linux and elsewhere; of oneDNN, cuBLAS and CUDA.
TEXTS = (
    "can't allocate memory",
    "not enough memory",
    "could not create a primitive",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "out of memory",
)


@contextmanager
def one_memory_error() -> Iterator[None]:
    """Turns every way of running out of memory inside the block into a torch.OutOfMemoryError, as on a GPU."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_memory_error(error):
            raise
        raise torch.OutOfMemoryError(" ".join(f"{type(error).__name__}: {error}".split())) from error


def is_memory_error(error: Exception) -> bool:
    """Whether an error says that there is too little memory."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, RuntimeError):
        return any(text in str(error) for text in TEXTS)
    return isinstance(error, MemoryError)

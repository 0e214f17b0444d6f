"""What the program in a TorchScript file may do, read from its text before any of it runs.

A TorchScript file is a program, and part of it runs when the file is loaded. Its language has no imports and no system
calls, but operators that write files, map them into memory (and change them there) or open connections. An operator is
reached only by a name that stands in the text, so a file without those names cannot call them.
"""

import io
import re
from pathlib import Path

from quell.errors import ExportError
from quell.network.torch_private import records

# Names of operators of aten and prim that reach beyond the process.
FORBIDDEN = ("from_file", "save", "rpc_async", "rpc_sync", "rpc_remote")
# Namespaces of operators, and of classes written in C++, that only compute.
OPERATORS = ("aten", "prim", "quantized", "_quantized", "sparse", "mkldnn", "mkldnn_prepacked", "onednn", "prepacked")
CLASSES = ("quantized", "sparse", "xnnpack", "mkldnn")

_FORBIDDEN = re.compile(rf"\b(?:{'|'.join(FORBIDDEN)})\b")
# `torch` and `ops` are not values: with another name, or as an argument of getattr, they would reach names that do not
# stand in the text.
_TORCH = re.compile(r"(?<![\w.])torch\b(?!\s*\.)")
_OPERATORS = re.compile(r"(?<![\w.])ops\b(?:\s*\.\s*(\w+)\s*\.)?")
_CLASSES = re.compile(r"\btorch\s*\.\s*classes\b(?:\s*\.\s*(\w+))?")


def read_checked(path: Path) -> io.BytesIO:
    """The bytes of a TorchScript file whose program only computes: those that were checked, whatever the file is later.

    Raises:
        ExportError: the program can write, map or read files, or reach other processes.
        OSError, RuntimeError: the file cannot be read, or is no archive of torch.
    """
    content = path.read_bytes()
    for name, record in records(content):
        if name.endswith((".py", ".pkl")) and (problem := _problem(record.decode("latin-1"), name.endswith(".py"))):
            raise ExportError(f"{path}: its program {problem}, expected one that only computes; do not use it")
    return io.BytesIO(content)


def _problem(text: str, code: bool) -> str | None:
    """What a record of a TorchScript file names besides computing, None for nothing; data names classes alone."""
    for found in _CLASSES.finditer(text):
        if found[1] not in CLASSES:
            return f"uses classes of {found[1] or 'torch'}"
    if not code:
        return None
    if word := _FORBIDDEN.search(text):
        return f"calls {word[0]}"
    for found in _OPERATORS.finditer(text):
        if found[1] not in OPERATORS:
            return f"uses operators of {found[1] or 'ops'}"
    return "hides names of torch" if _TORCH.search(text) else None

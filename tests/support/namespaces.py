"""A network of its own for a test: whatever listens in it meets nobody else, and its addresses are free."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MAY = (
    sys.platform.startswith("linux")
    and all(shutil.which(tool) for tool in ("unshare", "nsenter", "ip"))
    and subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True).returncode == 0
)


@dataclass(frozen=True)
class Namespace:
    """Commands run inside of it when `enter` stands before them."""

    process: int

    @property
    def enter(self) -> list[str]:
        return ["nsenter", "--target", str(self.process), "--net", "--mount", f"--wdns={Path.cwd()}"]


@contextmanager
def namespace(*setup: str) -> Iterator[Namespace]:
    """A network with a loopback interface alone, and mounts of its own.

    Args:
        setup: shell commands that are run inside first.
    """
    script = " && ".join(["ip link set lo up", *setup, "echo ready", "exec sleep infinity"])
    holder = subprocess.Popen(["unshare", "--net", "--mount", "sh", "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        yield Namespace(holder.pid)
    finally:
        holder.kill()
        holder.communicate()

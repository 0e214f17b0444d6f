"""The header of every result: date, machine, versions, commit."""

import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import torch

from quell.processes import cores


def header(command: str) -> str:
    """Markdown lines with the command, date, commit, machine and versions of a benchmark."""
    root = Path(__file__).parents[1]
    commit = _output(["git", "-C", str(root), "rev-parse", "--short", "HEAD"])
    changed = " with changes" if _output(["git", "-C", str(root), "status", "--porcelain", "-uno"]) else ""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"`{command}`\n\n{when}, commit {commit}{changed}, {cores()} shared CPU cores ({_cpu()}){gpu}, {versions}\n"


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

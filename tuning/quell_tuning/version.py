"""The version of this code, as it stands on studies, trials and exported files."""

import functools
import subprocess
from pathlib import Path
from typing import Any

import quell


@functools.cache
def record() -> dict[str, str]:
    """Version, and commit where it is known, as JSON."""
    names = {"version": quell.__version__, "commit": commit()}
    return {key: name for key, name in names.items() if name}


def shown(recorded: dict[str, Any] | None) -> str:
    """A `record` in words; None is that of a version that recorded none."""
    if not recorded:
        return "an older quell"
    commit_text = f" ({recorded['commit']})" if "commit" in recorded else ""
    return f"quell {recorded['version']}{commit_text}"


def commit() -> str:
    """The git commit of this code, with a + if files were changed since; empty outside of a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", __file__], check=True, capture_output=True)
        described = subprocess.run(
            [*git, "describe", "--always", "--exclude=*", "--dirty=+"], check=True, capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return described.stdout.strip()

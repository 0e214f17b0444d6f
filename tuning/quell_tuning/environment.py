"""Every environment variable of the search: its name, its default and its meaning.

No other module reads a variable whose name begins with QUELL_. A test compares this table with docs/environment.md.
"""

import os
from dataclasses import dataclass

from quell_tuning.errors import UsageError


@dataclass(frozen=True)
class Variable:
    """An environment variable."""

    name: str
    default: str  # as the documentation says it; `seconds` reads it as a number
    meaning: str

    def get(self) -> str | None:
        """What it is set to, which may be empty; None where it is not set."""
        return os.environ.get(self.name)

    def seconds(self) -> float:
        """It as a number; raises UsageError unless that is above 0."""
        text = os.environ.get(self.name, self.default)
        try:
            number = float(text)
        except ValueError:
            number = 0.0
        if not number > 0:
            raise UsageError(f"{self.name}: {text!r}, expected a number of seconds above 0; change it, or unset it")
        return number

    def process(self) -> int | None:
        """It as the number of a process, None where it is not set; raises UsageError for anything else."""
        text = os.environ.get(self.name)
        if text is not None and not text.isdecimal():
            raise UsageError(f"{self.name}: {text!r}, expected the number of a process; unset it")
        return None if text is None else int(text)


NOT_SET = "not set"

RUNS = Variable("QUELL_RUNS", "runs", "folder for the database, decoded corpora, checkpoints, weights and logs")
CORPUS = Variable(
    "QUELL_CORPUS",
    "the current folder (demo: RUNS/demo-corpus)",
    "folder that contains the study's speech and noise folders",
)
STORAGE = Variable("QUELL_STORAGE", "sqlite:/// + RUNS/quell.db", "URL of the database")
STORAGE_PASSWORD_FILE = Variable(
    "QUELL_STORAGE_PASSWORD_FILE", NOT_SET, "file that contains only the password of the database"
)
STORAGE_TOKEN_FILE = Variable(
    "QUELL_STORAGE_TOKEN_FILE", NOT_SET, "file that contains only the token of the gRPC proxy"
)
ARTIFACTS = Variable("QUELL_ARTIFACTS", "RUNS/artifacts", "folder or s3://BUCKET/PREFIX for sounds and pictures")
DASHBOARD_PASSWORD = Variable("QUELL_DASHBOARD_PASSWORD", NOT_SET, "password of the dashboard")
GRACE_S = Variable(
    "QUELL_GRACE_S", "30", "seconds after which a worker that does not renew its lease is considered lost"
)
HANG_S = Variable("QUELL_HANG_S", "3600", "seconds without progress after which a hanging training ends its process")
PATIENCE_S = Variable("QUELL_PATIENCE_S", "1800", "seconds to wait for a database that is away")
POOL = Variable("QUELL_POOL", NOT_SET, "set by quell tune for its workers: the process id of the parent")

VARIABLES = [value for value in list(globals().values()) if isinstance(value, Variable)]

"""Every environment variable of the search: its name, its default and its meaning.

No other module reads a variable whose name begins with QUELL_. A test compares this table with docs/environment.md.
"""

import os
from dataclasses import dataclass


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
        return float(os.environ.get(self.name, self.default))


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
ARTIFACTS = Variable("QUELL_ARTIFACTS", "RUNS/artifacts", "folder or s3://BUCKET/PREFIX for sounds and pictures")
DASHBOARD_PASSWORD = Variable("QUELL_DASHBOARD_PASSWORD", NOT_SET, "password of the dashboard")
GRACE_S = Variable(
    "QUELL_GRACE_S", "30", "seconds after which a worker that does not renew its lease is considered lost"
)
HANG_S = Variable("QUELL_HANG_S", "3600", "seconds without progress after which a hanging training ends its process")
PATIENCE_S = Variable("QUELL_PATIENCE_S", "1800", "seconds to wait for a database that is away")
POOL = Variable("QUELL_POOL", NOT_SET, "set by quell tune for its workers: the process id of the parent")

VARIABLES = [value for value in list(globals().values()) if isinstance(value, Variable)]

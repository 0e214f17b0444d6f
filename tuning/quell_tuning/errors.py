"""The exceptions of the search, beside those of `quell.errors`: all derive from TuningError."""


class TuningError(Exception):
    """Base of the errors that a user can act on."""


class StudyFileError(TuningError):
    """A study file cannot be read, or describes a study that cannot be run."""


class StudyNotFound(TuningError):
    """The storage has no such study, or the study no finished trial."""


class StudyMismatch(TuningError):
    """The stored study was made from another specification or corpus."""


class StorageError(TuningError):
    """The storage URL is not supported, or the database cannot be opened or stays unreachable."""


class DiskError(TuningError):
    """A disk is full, a quota used up or a file system read-only, for which no trial is to blame."""


class DatabaseGone(StorageError):
    """The SQLite file was deleted, moved or replaced while it was in use; the message says where its content is."""


class WorkerError(TuningError):
    """Workers died repeatedly without finishing a trial; the message has the last lines of their logs."""


class TrialsFailed(TuningError):
    """The last trials all failed for the same reason, which the message has."""


class UsageError(TuningError):
    """An option of the command line names something that does not exist; exit code 2."""


class Interrupted(SystemExit):
    """Ctrl-C or SIGTERM ends the program, with exit code 130 or 143. Typer would swallow a KeyboardInterrupt."""

    def __init__(self, code: int, advice: str = "") -> None:
        super().__init__(code)
        self.advice = advice  # how to resume

"""What can go wrong with a search, besides what quell.errors names.

TuningError
├── StudyFileError   the study file says something that cannot be run
├── StudyNotFound    no such study, or no trial in it that could be used
├── StudyMismatch    the stored study was made from another specification or corpus
├── StorageError     the database cannot be opened, or stays away
├── WorkerError      workers die without getting anywhere
├── TrialsFailed     trials fail one after another for the same reason
└── UsageError       an option asks for what is not there
"""


class TuningError(Exception):
    """Base of all errors of the search service that a user can do something about."""


class StudyFileError(TuningError):
    """A study file that cannot be read, or says something that cannot be run."""


class StudyNotFound(TuningError):
    """No such study in the storage, or no finished trial in it."""


class StudyMismatch(TuningError):
    """The study in the storage was made from another specification or corpus."""


class StorageError(TuningError):
    """The storage URL is not one of ours, or the database cannot be opened."""


class WorkerError(TuningError):
    """Workers died repeatedly without finishing a trial; the message holds their last words."""


class TrialsFailed(TuningError):
    """The last trials failed by their own fault and alike; the message holds the reason."""


class UsageError(TuningError):
    """An option of the command line asks for what is not there; exit code 2."""


class Interrupted(SystemExit):
    """Ctrl-C or SIGTERM ends the program, with exit code 130 or 143.

    Whoever knows how to go on later sets `advice`. It is no KeyboardInterrupt, which typer would swallow.
    """

    def __init__(self, code: int, advice: str = "") -> None:
        super().__init__(code)
        self.advice = advice

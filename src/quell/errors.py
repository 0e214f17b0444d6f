"""Errors that a user of quell can act on: recordings, configurations, files, missing packages.

Wrong arguments raise ValueError. Every message reads `<file or key>: <found>, expected <needed>; <what to do>`.
"""


class DenoiserError(Exception):
    """Base of all errors of quell."""


class AudioError(DenoiserError):
    """A sound file cannot be read or written, or holds no usable samples."""


class CorpusError(DenoiserError):
    """A folder of recordings cannot be split, decoded or scored."""


class TrainingError(DenoiserError):
    """Training diverged; the message holds the step and the learning rate."""


class CheckpointError(DenoiserError):
    """A checkpoint is damaged, or belongs to another training."""


class DownloadError(DenoiserError):
    """A download fails, is not the published file, or would write outside its folder."""


class ExportError(DenoiserError):
    """An exported file is missing or damaged, cannot be made, or differs from the denoiser it was made from."""


class LockError(DenoiserError):
    """Another process holds a lock for longer than anything should take."""


class PackageError(DenoiserError):
    """An optional package is not installed; the message names the extra."""


class ProcessError(DenoiserError):
    """A child process died in the middle of its work; `of_memory` where memory may have been the reason."""

    def __init__(self, text: str, of_memory: bool) -> None:
        super().__init__(text, of_memory)
        self.of_memory = of_memory

    def __str__(self) -> str:
        return str(self.args[0])

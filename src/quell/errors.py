"""What can go wrong with a caller's recordings, configurations and files.

DenoiserError
├── AudioError       a sound file that cannot be read, or holds no usable sound
├── CorpusError      a folder of recordings that cannot be split or scored
├── TrainingError    a training that diverged
├── CheckpointError  a file that this training cannot go on from
├── DownloadError    a file from the network that does not come, or is not what it should be
├── ExportError      a denoiser that would not run elsewhere as it runs here
└── PackageError     an optional package that was asked for is not installed

Wrong arguments raise ValueError. Every message reads `<file or key>: <found>, expected <needed>; <what to do>`.
"""


class DenoiserError(Exception):
    """Base of all errors that a user of quell can do something about."""


class AudioError(DenoiserError):
    """A sound file cannot be read, or holds no usable sound."""


class CorpusError(DenoiserError):
    """A folder of recordings cannot be split, decoded or scored."""


class TrainingError(DenoiserError):
    """Training diverged; the message holds the step and the learning rate."""


class CheckpointError(DenoiserError):
    """A checkpoint is damaged, or is one of another training."""


class DownloadError(DenoiserError):
    """A download does not come, is not what was published, or would write where it should not."""


class ExportError(DenoiserError):
    """An exported file is missing, damaged, or does not equal the denoiser it came from."""


class PackageError(DenoiserError):
    """A package of an extra is not installed; the message names the extra."""

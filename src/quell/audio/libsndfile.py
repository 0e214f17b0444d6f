"""What soundfile and libsndfile need around them, for reading and for writing."""

import soundfile


class SequentialFile(soundfile.SoundFile):  # type: ignore[misc]
    """A sound file that is read or written from its first sample to its last."""

    def seekable(self) -> bool:
        """False: after every read of a seekable file soundfile seeks to its position, after which MP3 is noise for a
        quarter of a second, and other decoders fail."""
        return False


def reason(error: Exception) -> str:
    """What went wrong, in one line, from an error of soundfile or of the system."""
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or error
    return " ".join(str(text).split()).rstrip(".").removeprefix("Error : ")

"""Reproducible speech synthesis with espeak-ng, through ctypes."""

import ctypes
import shutil
import tempfile

import numpy as np
from numpy.typing import NDArray

from quell.errors import CorpusError

SPEECH_RATE = 22_050  # Hz, espeak-ng's own


class Espeak:
    """libespeak-ng from the espeakng-loader wheel, with a state of its own.

    Pitch flutter, wave phase and breath noise continue from one sentence to the next, in static variables that no call
    of the library resets, not even espeak_Terminate. Each object therefore loads a copy of the library (1.5 MB that
    stay mapped), so that its speech depends only on its seed and its earlier sentences.
    """

    def __init__(self, seed: int) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise CorpusError(
                "demo corpus: espeakng-loader is not installed, expected the extra 'demo'; "
                "pip install 'quell-denoiser[demo]'"
            ) from error
        # Windows does not let a loaded library be deleted.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
            self._library = ctypes.CDLL(shutil.copy(espeakng_loader.get_library_path(), scratch))
        self._library.espeak_Synth.argtypes = (
            *(ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int),
            *(ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p),
        )
        # Output mode 2 is synchronous; option 0x8000 returns an error where espeak-ng would otherwise exit the process.
        data_path = espeakng_loader.get_data_path()
        rate = self._library.espeak_Initialize(2, 0, data_path.encode(), 0x8000)
        if rate != SPEECH_RATE:
            raise CorpusError(
                f"{data_path}: espeak_Initialize returned {rate}, expected {SPEECH_RATE} Hz; reinstall espeakng-loader"
            )
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(seed % 2**31))  # espeak_Initialize seeds with the time
        self._chunks: list[bytes] = []
        callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
        self._collect = callback(self._on_samples)  # kept alive: the library has only its address
        self._library.espeak_SetSynthCallback(self._collect)

    def _on_samples(self, samples: int | None, count: int, events: int | None) -> int:
        if samples and count > 0:  # the call after the last sample passes a null pointer
            self._chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    def say(self, voice: str, text: str, *, words_per_minute: int, volume: int, pitch: int) -> NDArray[np.int16]:
        """Text spoken by a voice, at SPEECH_RATE, with the pause at the end of a sentence.

        The variant after the `+` of a voice is not checked: espeak-ng uses its default for an unknown one.

        Args:
            volume: 100 is espeak-ng's default, at which loud variants clip.
            pitch: 0 to 99; 50 is the variant's own.

        Raises:
            CorpusError: the accent is unknown, or espeak-ng fails.
        """
        self._chunks.clear()
        self._check("espeak_SetVoiceByName", self._library.espeak_SetVoiceByName(voice.encode()), voice)
        for parameter, value in ((1, words_per_minute), (2, volume), (3, pitch)):
            self._check("espeak_SetParameter", self._library.espeak_SetParameter(parameter, value, 0), voice)
        utf8 = text.encode()
        flags = 0x1001  # text is UTF-8, and ends with a pause
        self._check("espeak_Synth", self._library.espeak_Synth(utf8, len(utf8) + 1, 0, 1, 0, flags, None, None), voice)
        return np.frombuffer(b"".join(self._chunks), dtype=np.int16)

    @staticmethod
    def _check(call: str, code: int, voice: str) -> None:
        if code != 0:
            raise CorpusError(f"demo corpus: {call} returned {code} for voice {voice}, expected 0")

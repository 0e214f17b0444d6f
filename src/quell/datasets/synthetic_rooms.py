"""Synthetic room impulse responses: boxes with random sizes, absorption and positions, by the image method."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quell.atomic import new_folder
from quell.audio import FloatArray
from quell.audio.formats import Format
from quell.audio.writer import write
from quell.errors import CorpusError, PackageError
from quell.progress import Progress, ignore

SIZE_M = ((2.5, 2.5, 2.3), (9.0, 7.0, 3.5))  # least and most length, width and height
DECAY_S = (0.15, 0.7)  # to -60 dB (Sabine 1922)
FROM_WALL_M = 0.4
DISTANCE_M = (0.3, 4.0)  # of voice and microphone
MOUTH_M = (1.0, 1.8)  # height
# Order of the image sources (Allen and Berkley 1979); later reflections are below -60 dB in most of these rooms, and
# computing time grows with the third power of the order.
MOST_REFLECTIONS = 30


def generate(folder: Path, count: int, sample_rate: int, seed: int, progress: Progress = ignore) -> Path:
    """The folder of `count` room responses, generated at the first call.

    Raises:
        PackageError: pyroomacoustics is not installed.
        CorpusError: the folder cannot be written.
    """
    home = folder / f"rooms-{count}-{sample_rate}-{seed}"
    if home.is_dir():
        return home
    try:
        import pyroomacoustics
    except ImportError as error:
        raise PackageError(
            "corpus.generated_rooms: needs pyroomacoustics; pip install 'quell-denoiser[rooms]'"
        ) from error
    rng = np.random.default_rng(seed)
    try:
        with new_folder(home) as partial:
            for number in range(count):
                response, decay_s = _response(pyroomacoustics, rng, sample_rate)
                path = partial / f"{number:04d}_{decay_s:.2f}s.wav"
                write(path, response, Format(sample_rate, "WAV", "PCM_16"))
                progress(number + 1, count)
    except OSError as error:
        if not home.is_dir():  # else another process was faster, with the same rooms
            raise CorpusError(f"{home}: {error.strerror}, expected to write there; check --runs") from error
    return home


def _response(acoustics: Any, rng: np.random.Generator, sample_rate: int) -> tuple[FloatArray, float]:
    """A response with its peak at .9, and its nominal decay time in s."""
    while True:
        size = rng.uniform(*SIZE_M)
        decay_s = float(rng.uniform(*DECAY_S))
        try:
            absorption, reflections = acoustics.inverse_sabine(decay_s, size)
        except ValueError:  # a room of this size cannot decay so fast
            continue
        voice, microphone = (_position(rng, size) for _ in range(2))
        if DISTANCE_M[0] <= float(np.linalg.norm(voice - microphone)) <= DISTANCE_M[1]:
            break
    room = acoustics.ShoeBox(
        size,
        fs=sample_rate,
        materials=acoustics.Material(float(absorption)),
        max_order=min(int(reflections), MOST_REFLECTIONS),
    )
    room.add_source(voice)
    room.add_microphone(microphone)
    room.compute_rir()
    response = np.asarray(room.rir[0][0], dtype=np.float32)
    return response * np.float32(0.9 / np.abs(response).max()), decay_s


def _position(rng: np.random.Generator, size: NDArray[np.float64]) -> NDArray[np.float64]:
    low = np.array([FROM_WALL_M, FROM_WALL_M, MOUTH_M[0]])
    return rng.uniform(low, np.array([size[0] - FROM_WALL_M, size[1] - FROM_WALL_M, MOUTH_M[1]]))

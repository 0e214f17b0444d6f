"""The sounds and pictures of a report, read from the artifact store as data URIs."""

import base64
import io
from dataclasses import dataclass
from typing import Any

import soundfile
from optuna.artifacts.exceptions import ArtifactNotFound

from quell.progress import Progress
from quell_tuning.artifacts.artifact_store import ArtifactStore, is_damaged
from quell_tuning.report.content import Content
from quell_tuning.results.trial_row import TrialRow


@dataclass(frozen=True)
class DenoisedClip:
    """A clip as one trial denoised it."""

    row: TrialRow
    sound: str  # data URI
    picture: str  # data URI, or empty
    scores: dict[str, float]


@dataclass(frozen=True)
class ReportClip:
    """A mixture of the validation split, noisy, clean and denoised."""

    label: str
    snr_db: float
    seconds: float
    noisy: str  # data URI
    clean: str  # data URI
    scores: dict[str, float]  # of the noisy mixture
    denoised: list[DenoisedClip]


@dataclass(frozen=True)
class Gallery:
    """The player's clips."""

    clips: list[ReportClip]
    rows: list[TrialRow]  # trials of each clip's `denoised`
    missing: int  # files that the artifact store lacks, or has damaged


def with_sounds(content: Content, listen: int) -> list[TrialRow]:
    """The best `listen` trials that have sounds, and the best preset; of duplicates only the first."""
    rows: dict[str, TrialRow] = {}
    for row in content.leaderboard:
        if len(rows) < listen and row.gallery:
            rows.setdefault(str(row.gallery), row)
    preset = content.best_preset
    if listen and preset is not None and preset.gallery:
        rows.setdefault(str(preset.gallery), preset)
    return list(rows.values())


def gallery(content: Content, store: ArtifactStore, listen: int, update: Progress) -> Gallery:
    """The study's showcase, denoised by the trials of `with_sounds`."""
    files, showcase = _Files(store), content.attributes.get("showcase", [])
    denoised = [
        [clip for stored in row.gallery if (clip := files.denoised(row, stored))]
        for row in with_sounds(content, listen)
    ]
    whole = [clips for clips in denoised if len(clips) == len(showcase)]  # with a missing clip the player has gaps
    report_clips = []
    for index, stored in enumerate(showcase if whole else []):
        noisy, clean = files.sound(stored["noisy"]), files.sound(stored["clean"])
        if noisy and clean:
            about = (stored["label"], stored["snr_db"], stored["seconds"], noisy, clean, stored.get("scores", {}))
            report_clips.append(ReportClip(*about, [clips[index] for clips in whole]))
        update(index + 1, len(showcase))
    return Gallery(report_clips, [clips[0].row for clips in whole] if report_clips else [], files.missing)


class _Files:
    """Files of an artifact store; counts the missing ones."""

    def __init__(self, store: ArtifactStore) -> None:
        self.store = store
        self.missing = 0

    def denoised(self, row: TrialRow, stored: dict[str, Any]) -> DenoisedClip | None:
        sound, picture = self.sound(stored["denoised"]), self.read(stored["picture"])
        return DenoisedClip(row, sound, data_uri("image/png", picture), stored.get("scores", {})) if sound else None

    def sound(self, artifact: str) -> str:
        """The sound as a data URI; empty where it is missing."""
        wav = self.read(artifact)
        return data_uri(*_compressed(wav)) if wav else ""

    def read(self, artifact: str) -> bytes:
        """The content of a file; empty where it is missing or damaged."""
        try:
            with self.store.open_reader(artifact) as file:
                content = file.read()
        except (ArtifactNotFound, ValueError):  # ValueError: not the id of an artifact
            content = None
        if content is None or is_damaged(artifact, content):
            self.missing += 1
            return b""
        return content


def _compressed(wav: bytes) -> tuple[str, bytes]:
    """MIME type and bytes: FLAC for 16-bit samples, else the WAV unchanged.

    FLAC is lossless, takes about half the size, and Chromium, Firefox and Safari decode it to the same number of
    samples, so that sounds stay in step; the padding of MP3, AAC and Opus differs between browsers.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(wav)) as file:
            if file.subtype != "PCM_16":
                return "audio/wav", wav
            samples, rate = file.read(dtype="int16"), file.samplerate
    except soundfile.LibsndfileError:
        return "audio/wav", wav
    flac = io.BytesIO()
    soundfile.write(flac, samples, rate, format="FLAC", subtype="PCM_16")
    return "audio/flac", flac.getvalue()


def data_uri(kind: str, content: bytes) -> str:
    """Empty where there is no content."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}" if content else ""

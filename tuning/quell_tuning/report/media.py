"""The sounds and pictures of a report, out of the artifact store and into the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import soundfile
from optuna.artifacts.exceptions import ArtifactNotFound

from quell_tuning.report.content import Content, Row

if TYPE_CHECKING:
    from quell_tuning.artifacts.artifact_store import ArtifactStore


@dataclass(frozen=True)
class DenoisedClip:
    """What one trial made of a clip."""

    row: Row
    sound: str  # data URI
    picture: str  # data URI, or empty
    scores: dict[str, float]


@dataclass(frozen=True)
class ReportClip:
    """A mixture of the validation split, and what the trials made of it."""

    label: str
    snr_db: float
    seconds: float
    noisy: str  # data URI
    clean: str  # data URI
    scores: dict[str, float]  # of the noisy mixture
    takes: list[DenoisedClip]


@dataclass(frozen=True)
class Gallery:
    clips: list[ReportClip]
    rows: list[Row]  # whose takes every clip has, in this order
    missing: int  # files that the artifact store should have, and has not


def heard(content: Content, listen: int) -> list[Row]:
    """The best `listen` trials that have sounds, of equal trials the first, and the best preset."""
    found: dict[str, Row] = {}
    for row in content.leaderboard:
        if len(found) < listen and row.gallery:
            found.setdefault(str(row.gallery), row)
    preset = content.best_preset
    if listen and preset is not None and preset.gallery:
        found.setdefault(str(preset.gallery), preset)
    return list(found.values())


def gallery(content: Content, store: ArtifactStore, listen: int, move: Callable[[int, int], None]) -> Gallery:
    """The showcase with the sounds of the best `listen` trials and of the best preset.

    Args:
        move: called with (clips done, of how many).
    """
    files, wanted, showcase = _Files(store), heard(content, listen), content.attributes.get("showcase", [])
    takes = [[take for made in row.gallery if (take := files.take(row, made))] for row in wanted]
    whole = [found for found in takes if len(found) == len(showcase)]  # another one would be silent at some clip
    clips = []
    for index, shown in enumerate(showcase if whole else []):
        noisy, clean = files.sound(shown["noisy"]), files.sound(shown["clean"])
        if noisy and clean:
            kept = [found[index] for found in whole]
            known = (shown["label"], shown["snr_db"], shown["seconds"], noisy, clean, shown.get("scores", {}))
            clips.append(ReportClip(*known, kept))
        move(index + 1, len(showcase))
    return Gallery(clips, [take.row for take in clips[0].takes] if clips else [], files.missing)


class _Files:
    """Files of an artifact store; those that are not there are counted."""

    def __init__(self, store: ArtifactStore) -> None:
        self.store = store
        self.missing = 0

    def take(self, row: Row, made: dict[str, Any]) -> DenoisedClip | None:
        sound, picture = self.sound(made["denoised"]), self.read(made["picture"])
        return DenoisedClip(row, sound, data_uri("image/png", picture), made.get("scores", {})) if sound else None

    def sound(self, artifact: str) -> str:
        """A data URI; empty where there is none."""
        wav = self.read(artifact)
        return data_uri(*_packed(wav)) if wav else ""

    def read(self, artifact: str) -> bytes:
        """What the file holds; nothing where there is none."""
        try:
            with self.store.open_reader(artifact) as file:
                return file.read()
        except (ArtifactNotFound, ValueError):  # ValueError: an id that is none
            self.missing += 1
            return b""


def _packed(wav: bytes) -> tuple[str, bytes]:
    """MIME type and bytes: FLAC of 16-bit samples, else the WAV as it is.

    FLAC loses nothing, takes about half of the room, and is decoded by Chromium, Firefox and Safari to exactly as many
    samples, so that sounds stay in step; what MP3, AAC or Opus add to the ends differs by browser.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(wav)) as file:
            if file.subtype != "PCM_16":
                return "audio/wav", wav
            samples, rate = file.read(dtype="int16"), file.samplerate
    except soundfile.LibsndfileError:
        return "audio/wav", wav
    packed = io.BytesIO()
    soundfile.write(packed, samples, rate, format="FLAC", subtype="PCM_16")
    return "audio/flac", packed.getvalue()


def data_uri(kind: str, content: bytes) -> str:
    """Empty where there is no content."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}" if content else ""

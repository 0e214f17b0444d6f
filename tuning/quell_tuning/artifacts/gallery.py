"""Stores a few clips of the validation split, the same for all trials of a study, as artifacts to listen to.

Each trial has every clip as noisy, denoised and clean WAV file, and as one picture of the three. Noisy and clean files
are stored once for the study; trials refer to them.
"""

from __future__ import annotations

import io
import itertools
import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import soundfile
from optuna.artifacts import ArtifactMeta
from optuna.trial import FrozenTrial

from quell.audio import FloatArray
from quell_tuning.artifacts.artifact_store import id_of
from quell_tuning.artifacts.clip_picture import ClipSignals, picture
from quell_tuning.optuna_private import ARTIFACT_KEY, storage_of, study_id_of, trial_id_of

if TYPE_CHECKING:
    import torch

    from quell.metrics.scorer import Scores
    from quell.mixing.evaluation_mixtures import EvaluationSet
    from quell_tuning.artifacts.artifact_store import ArtifactStore

    Denoise = Callable[[torch.Tensor], torch.Tensor]

log = logging.getLogger("quell")

CLIPS = 4
# Clips nearest to each SNR among which speakers and noises are chosen; every combination is compared.
CANDIDATES = 8
# Metrics in a picture's title: their names and digits.
TITLE = {"pesq": ("PESQ", 2), "stoi": ("STOI", 3), "si_sdr": ("SI-SDR", 1)}
LABEL = 100  # characters of a clip's label that the picture has room for


def showcase(mixtures: EvaluationSet) -> list[int]:
    """Indices of CLIPS clips, or of all of a smaller set, lowest SNR first; the same for the same set.

    Their SNRs spread over those of the set; among such clips they have as many noises and speakers as possible.
    """
    levels = np.unique(mixtures.snr_db)
    count = min(CLIPS, len(mixtures.labels))
    targets = levels[np.linspace(0, len(levels) - 1, count).round().astype(int)]
    gaps_db = np.abs(mixtures.snr_db - targets[:, None])
    nearest = np.argsort(gaps_db, axis=1, kind="stable")[:, :CANDIDATES].tolist()
    parts = [_parts(label) for label in mixtures.labels]

    def worth(clips: Sequence[int]) -> tuple[float, ...]:
        speakers, noises = ({parts[clip][side] for clip in clips} for side in (0, 1))
        gap_db = sum(gaps_db[target, clip] for target, clip in enumerate(clips))
        return len(set(clips)), -gap_db, len(noises), len(speakers)

    best: tuple[int, ...] = max(itertools.product(*nearest), key=worth)  # of equal ones the first
    return list(best)


def store_study_clips(study: optuna.Study, mixtures: EvaluationSet, store: ArtifactStore) -> list[dict[str, Any]]:
    """The study's attribute `showcase`: its clips, which the first worker stores.

    A worker that finds at the end that another was faster uses the other's clips; its own stay in the store, unused: at
    most 2.1 MB at 16 kHz. When two workers end within a few milliseconds, the attribute of the later one is kept, and
    the study's page lists the clips of both. Empty when the store fails; the next trial tries again.
    """
    stored: list[dict[str, Any]] = study.user_attrs.get("showcase", [])
    if stored:
        return stored
    clips: list[dict[str, Any]] = []
    metas: list[ArtifactMeta] = []
    try:
        for number, index in enumerate(showcase(mixtures), 1):
            clip: dict[str, Any] = {
                "clip": index,
                "label": mixtures.labels[index],
                "snr_db": float(mixtures.snr_db[index]),
                "seconds": round(len(mixtures.clean[index]) / mixtures.sample_rate, 2),
                "scores": _of_clip(mixtures.noisy_scores, index),
            }
            for side, samples in (("noisy", mixtures.noisy[index]), ("clean", mixtures.clean[index])):
                meta = _stored(store, _wav(samples, mixtures.sample_rate), _name(number, side, clip))
                clip[side] = meta.artifact_id
                metas.append(meta)
            clips.append(clip)
    except Exception as error:  # stores raise errors of their own
        log.warning("no showcase: %s: %s; the search goes on without", type(error).__name__, error)
        return []
    stored = study.user_attrs.get("showcase", [])
    if stored:
        return stored
    for key, text in _listed(metas):
        storage_of(study).set_study_system_attr(study_id_of(study), key, text)
    study.set_user_attr("showcase", clips)
    return clips


def store_trial_clips(
    trial: optuna.Trial,
    showcase: Sequence[dict[str, Any]],
    mixtures: EvaluationSet,
    denoise: Denoise,
    scores: Scores,
    store: ArtifactStore,
    device: torch.device | None = None,
) -> None:
    """Stores the clips of `store_study_clips` as the trial's denoiser returns them, and sets its attribute `gallery`.

    It stores at most 300 kB for each picture (`clip_picture.LARGEST_KB`) and 2 bytes a sample, of clips of 8 s at most:
    2.3 MB a trial at 16 kHz. A trial that has a gallery keeps it. When the denoiser or the store fails, a warning is
    logged and the trial has no gallery; errors of the study's database are raised.

    Args:
        denoise: maps (1, T) to (1, T), on `device`.
        scores: of the denoiser, over `mixtures`.
    """
    if not showcase or "gallery" in trial.user_attrs:
        return
    gallery: list[dict[str, Any]] = []
    metas: list[ArtifactMeta] = []
    try:
        for number, clip in enumerate(showcase, 1):
            noisy, clean = mixtures.noisy[clip["clip"]], mixtures.clean[clip["clip"]]
            values = _of_clip(scores, clip["clip"])
            denoised = _denoised(denoise, noisy, device, f"trial {trial.number}, clip {number}")
            title = _title(number, clip, values, len(showcase))
            png = picture(ClipSignals(noisy, denoised, clean), mixtures.sample_rate, title)
            audio = _stored(store, _wav(denoised, mixtures.sample_rate), _name(number, "denoised", clip))
            image = _stored(store, png, _name(number, "picture", clip))
            gallery.append({"denoised": audio.artifact_id, "picture": image.artifact_id, "scores": values})
            metas += [audio, image, *(_meta(_name(number, side, clip), clip[side]) for side in ("noisy", "clean"))]
    except Exception as error:  # stores raise errors of their own
        log.warning("trial %d has no gallery: %s: %s", trial.number, type(error).__name__, error)
        return
    for key, text in _listed(metas):
        trial.storage.set_trial_system_attr(trial_id_of(trial), key, text)
    trial.set_user_attr("gallery", gallery)


def copy_clips(trial: optuna.Trial, ended: FrozenTrial) -> None:
    """Gives a trial the gallery, if any, of an ended one with the same configuration: the same artifacts."""
    if "gallery" not in ended.user_attrs:
        return
    for key, value in ended.system_attrs.items():
        if key.startswith(ARTIFACT_KEY):
            trial.storage.set_trial_system_attr(trial_id_of(trial), key, value)
    trial.set_user_attr("gallery", ended.user_attrs["gallery"])


def _denoised(denoise: Denoise, noisy: FloatArray, device: torch.device | None, name: str) -> FloatArray:
    import torch

    with torch.inference_mode():
        samples: FloatArray = denoise(torch.from_numpy(noisy)[None].to(device))[0].float().cpu().numpy()
    if np.isfinite(samples).all():
        return samples
    log.warning("%s: the denoised signal is not finite; stored as silence", name)
    return np.zeros_like(noisy)


def _of_clip(scores: Scores, clip: int) -> dict[str, float]:
    return {name: round(float(values[clip]), 4) for name, values in scores.values.items()}


def _wav(samples: FloatArray, sample_rate: int) -> bytes:
    """A WAV file of 16 bits; samples beyond full scale are clipped."""
    steps = np.rint(samples * 32768.0).clip(-32768, 32767).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, steps, sample_rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def _stored(store: ArtifactStore, content: bytes, name: str) -> ArtifactMeta:
    """As `optuna.artifacts.upload_artifact`, but from memory, and listed by the caller once the content is stored."""
    meta = _meta(name, id_of(content))
    store.write(meta.artifact_id, io.BytesIO(content))
    return meta


def _listed(metas: Sequence[ArtifactMeta]) -> list[tuple[str, str]]:
    """The system attributes that list artifacts."""
    return [(ARTIFACT_KEY + meta.artifact_id, json.dumps(asdict(meta))) for meta in metas]


def _meta(name: str, artifact_id: str) -> ArtifactMeta:
    return ArtifactMeta(artifact_id, name, "image/png" if name.endswith(".png") else "audio/wav", None)


def _name(number: int, side: str, clip: dict[str, Any]) -> str:
    """A file name like "1b denoised, -5 dB, rain.wav": the dashboard sorts by it."""
    letter = "abcd"[("noisy", "denoised", "clean", "picture").index(side)]
    noise = re.sub(r"[^\w .+-]", "_", _parts(clip["label"])[1])[:40]
    return f"{number}{letter} {side}, {clip['snr_db']:g} dB, {noise}{'.png' if side == 'picture' else '.wav'}"


def _title(number: int, clip: dict[str, Any], after: dict[str, float], count: int) -> str:
    before = clip["scores"]
    scores = [
        f"{metric} {before[name]:.{digits}f} → {after[name]:.{digits}f}" + (" dB" if name == "si_sdr" else "")
        for name, (metric, digits) in TITLE.items()
        if name in before and name in after
    ]
    label: str = clip["label"]
    if len(label) > LABEL:
        label = f"{label[: LABEL // 2]} ... {label[-LABEL // 2 :]}"
    return f"clip {number} of {count}, {clip['snr_db']:g} dB SNR: {label}\n" + "      ".join(scores)


def _parts(label: str) -> tuple[str, str]:
    """Speaker and noise of a label: the folders of its two recordings, or their names where they have none."""
    clean, _, noise = label.partition(" + ")
    speaker, kind = PurePosixPath(clean), PurePosixPath(noise)
    return speaker.parent.name or speaker.stem, kind.parts[0] if len(kind.parts) > 1 else kind.stem

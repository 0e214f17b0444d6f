"""What trials sound and look like: a few clips of the validation split, the same for all of them, as artifacts.

Every trial of a study shows each clip as noisy, denoised and clean WAV, one next to the other, and as a picture of the
three. Noisy and clean ones are stored once for the study; trials only refer to them.
"""

from __future__ import annotations

import io
import itertools
import json
import logging
import re
import uuid
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
# Of every SNR: their pairs of speaker and noise are compared, all with all.
CANDIDATES = 8
# What the title of a picture tells: metric -> its name and digits.
TITLE = {"pesq": ("PESQ", 2), "stoi": ("STOI", 3), "si_sdr": ("SI-SDR", 1)}
LABEL = 100  # letters, of what the picture has room for


def showcase(mixtures: EvaluationSet) -> list[int]:
    """CLIPS clips of a set, as many as there are of a smaller one, lowest SNR first: SNRs spread from the lowest to the
    highest, and as different noises and speakers as these have. The same for the same set."""
    levels = np.unique(mixtures.snr_db)
    count = min(CLIPS, len(mixtures.labels))
    wanted = levels[np.linspace(0, len(levels) - 1, count).round().astype(int)]
    gaps_db = np.abs(mixtures.snr_db - wanted[:, None])
    nearest = np.argsort(gaps_db, axis=1, kind="stable")[:, :CANDIDATES].tolist()
    parts = [_parts(label) for label in mixtures.labels]

    def worth(chosen: Sequence[int]) -> tuple[float, ...]:
        speakers, noises = ({parts[clip][side] for clip in chosen} for side in (0, 1))
        gap_db = sum(gaps_db[place, clip] for place, clip in enumerate(chosen))
        return len(set(chosen)), -gap_db, len(noises), len(speakers)

    chosen: tuple[int, ...] = max(itertools.product(*nearest), key=worth)  # of equal ones the first
    return list(chosen)


def store_study_clips(study: optuna.Study, mixtures: EvaluationSet, store: ArtifactStore) -> list[dict[str, Any]]:
    """The study's attribute `showcase`; the first who asks stores its noisy and clean clips.

    Who finds at the end that another was faster takes the other's; the audio of the slower one stays in the store,
    unused: at most 2.1 MB at 16 kHz. Of two who end in the same few milliseconds the later word counts, and the study's
    page lists the clips of both. Empty when the store refuses, to be tried again with the next trial.
    """
    known: list[dict[str, Any]] = study.user_attrs.get("showcase", [])
    if known:
        return known
    found: list[dict[str, Any]] = []
    metas: list[ArtifactMeta] = []
    try:
        for place, clip in enumerate(showcase(mixtures), 1):
            label, snr_db = mixtures.labels[clip], float(mixtures.snr_db[clip])
            shown: dict[str, Any] = {
                "clip": clip,
                "label": label,
                "snr_db": snr_db,
                "seconds": round(len(mixtures.clean[clip]) / mixtures.sample_rate, 2),
                "scores": _of_clip(mixtures.noisy_scores, clip),
            }
            for side, samples in (("noisy", mixtures.noisy[clip]), ("clean", mixtures.clean[clip])):
                meta = _stored(store, _wav(samples, mixtures.sample_rate), _name(place, side, shown))
                shown[side] = meta.artifact_id
                metas.append(meta)
            found.append(shown)
    except Exception as error:  # whatever a store raises, of whatever make
        log.warning("no showcase: %s: %s; the search goes on without", type(error).__name__, error)
        return []
    known = study.user_attrs.get("showcase", [])
    if known:
        return known
    for meta in metas:
        storage_of(study).set_study_system_attr(
            study_id_of(study), ARTIFACT_KEY + meta.artifact_id, json.dumps(asdict(meta))
        )
    study.set_user_attr("showcase", found)
    return found


def store_trial_clips(
    trial: optuna.Trial,
    showcase: Sequence[dict[str, Any]],
    mixtures: EvaluationSet,
    denoise: Denoise,
    scores: Scores,
    store: ArtifactStore,
    device: torch.device | None = None,
) -> None:
    """Hangs the clips of `store_study_clips` as the trial's denoiser leaves them, and sets the trial's attribute
    `gallery`.

    What it stores is at most 300 kB for each picture (`pictures.LARGEST_KB`) and 2 bytes a sample, of clips of 8 s at
    most: 2.3 MB a trial at 16 kHz. A trial that has a gallery keeps it. When the denoiser or the store fails, the trial
    goes on without, with a warning; only what the study's database raises comes through.

    Args:
        denoise: maps (1, T) to (1, T), on `device`.
        scores: of the denoiser, over `mixtures`.
    """
    if not showcase or "gallery" in trial.user_attrs:
        return
    gallery: list[dict[str, Any]] = []
    metas: list[ArtifactMeta] = []
    try:
        for place, shown in enumerate(showcase, 1):
            clip = shown["clip"]
            values = _of_clip(scores, clip)
            denoised = _denoised(denoise, mixtures.noisy[clip], device, f"trial {trial.number}, clip {place}")
            clips = ClipSignals(mixtures.noisy[clip], denoised, mixtures.clean[clip])
            drawn = picture(clips, mixtures.sample_rate, _title(place, shown, values, len(showcase)))
            audio = _stored(store, _wav(denoised, mixtures.sample_rate), _name(place, "denoised", shown))
            image = _stored(store, drawn, _name(place, "picture", shown))
            gallery.append({"denoised": audio.artifact_id, "picture": image.artifact_id, "scores": values})
            metas += [audio, image, *(_meta(_name(place, side, shown), shown[side]) for side in ("noisy", "clean"))]
    except Exception as error:  # whatever a store raises, of whatever make
        log.warning("trial %d has no gallery: %s: %s", trial.number, type(error).__name__, error)
        return
    for meta in metas:
        trial.storage.set_trial_system_attr(
            trial_id_of(trial), ARTIFACT_KEY + meta.artifact_id, json.dumps(asdict(meta))
        )
    trial.set_user_attr("gallery", gallery)


def copy_clips(trial: optuna.Trial, ended: FrozenTrial) -> None:
    """Shows the gallery of an equal trial that ended, the same artifacts; nothing when it has none."""
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
    log.warning("%s: the answer is not finite; shown as silence", name)
    return np.zeros_like(noisy)


def _of_clip(scores: Scores, clip: int) -> dict[str, float]:
    return {name: round(float(values[clip]), 4) for name, values in scores.values.items()}


def _wav(samples: FloatArray, sample_rate: int) -> bytes:
    """16 bit; louder than full scale is full scale."""
    steps = np.rint(samples * 32768.0).clip(-32768, 32767).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, steps, sample_rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def _stored(store: ArtifactStore, content: bytes, name: str) -> ArtifactMeta:
    """As `optuna.artifacts.upload_artifact`, but from memory, and with the content there before anybody is told."""
    meta = _meta(name, str(uuid.uuid4()))
    store.write(meta.artifact_id, io.BytesIO(content))
    return meta


def _listed(metas: Sequence[ArtifactMeta]) -> list[tuple[str, str]]:
    """The system attributes that list artifacts."""
    return [(ARTIFACT_KEY + meta.artifact_id, json.dumps(asdict(meta))) for meta in metas]


def _meta(name: str, artifact_id: str) -> ArtifactMeta:
    return ArtifactMeta(artifact_id, name, "image/png" if name.endswith(".png") else "audio/wav", None)


def _name(place: int, side: str, shown: dict[str, Any]) -> str:
    """A file name, like "1b denoised, -5 dB, rain.wav": the dashboard sorts by them."""
    letter = "abcd"[("noisy", "denoised", "clean", "picture").index(side)]
    noise = re.sub(r"[^\w .+-]", "_", _parts(shown["label"])[1])[:40]
    return f"{place}{letter} {side}, {shown['snr_db']:g} dB, {noise}{'.png' if side == 'picture' else '.wav'}"


def _title(place: int, shown: dict[str, Any], after: dict[str, float], count: int) -> str:
    before = shown["scores"]
    scores = [
        f"{word} {before[name]:.{digits}f} → {after[name]:.{digits}f}" + (" dB" if name == "si_sdr" else "")
        for name, (word, digits) in TITLE.items()
        if name in before and name in after
    ]
    label: str = shown["label"]
    if len(label) > LABEL:
        label = f"{label[: LABEL // 2]} ... {label[-LABEL // 2 :]}"
    return f"clip {place} of {count}, {shown['snr_db']:g} dB SNR: {label}\n" + "      ".join(scores)


def _parts(label: str) -> tuple[str, str]:
    """The speaker and the noise of a label: the folders that its recordings lie in, or else their names."""
    clean, _, noise = label.partition(" + ")
    speaker, kind = PurePosixPath(clean), PurePosixPath(noise)
    return speaker.parent.name or speaker.stem, kind.parts[0] if len(kind.parts) > 1 else kind.stem

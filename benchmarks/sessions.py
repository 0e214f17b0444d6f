"""Sessions of hours with long pauses: how much speech a trial is trained and scored on, and what that is worth.

    python benchmarks/sessions.py --corpus FOLDER [--hours 2] [--speakers 10] [--audio-hours 0.2]

One recording of so many hours for each speaker of FOLDER/speech: the utterances at random places in the tone of a room,
60 dB below them, after ten minutes of it. Two denoisers are trained on it, with and without the pauses, and scored on
the same test mixtures; where the speech is, is known.
"""

import argparse
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from header import header

from quell import audio
from quell.audio import writer
from quell.audio.formats import Format
from quell.config import DenoiserConfig, TrainingConfig
from quell.corpus.memory_map import Corpus
from quell.corpus.recordings import CorpusConfig
from quell.corpus.store import prepare
from quell.metrics.scorer import Scorer
from quell.mixing import training_mixtures
from quell.mixing.evaluation_mixtures import evaluation_set, score_denoiser
from quell.mixing.training_mixtures import sampler
from quell.processes import cores
from quell.training.training_loop import train

RATE = 16_000
FIRST_S, ROOM_DB = 600.0, -60.0
DRAWN = 512  # training segments that are looked at
SPREAD_DB = 15.0


def session(paths: list[Path], hours: float, seed: int) -> np.ndarray:
    """The utterances of a speaker in a room, (T,)."""
    rng = np.random.default_rng(seed)
    utterances = [audio.read_mono(path, RATE) for path in paths]
    level = np.sqrt(np.mean(np.square(np.concatenate(utterances))))
    samples = np.zeros(round(hours * 3600 * RATE), np.float32)
    spare = len(samples) - round(FIRST_S * RATE) - sum(map(len, utterances))
    pauses = np.diff(np.sort(rng.integers(0, spare, len(utterances))), prepend=0)
    place = round(FIRST_S * RATE)
    for pause, utterance in zip(pauses, utterances, strict=True):
        place += int(pause)
        samples[place : place + len(utterance)] = utterance
        place += len(utterance)
    room = level * 10 ** (ROOM_DB / 20) * rng.standard_normal(len(samples), np.float32)
    return (samples + room) * (0.5 / np.abs(samples).max())


def share_of_speech(clips: np.ndarray | list[np.ndarray]) -> float:
    """Share of clips whose loud 20 ms are SPREAD_DB and more above the soft ones, as in speech; a room's are not."""
    frames = [clip[: len(clip) // 320 * 320].reshape(-1, 320).std(axis=1) for clip in clips]
    spreads = [20 * np.log10(np.quantile(f, 0.95) / max(np.quantile(f, 0.05), 1e-9)) for f in frames]
    return float(np.mean(np.array(spreads) >= SPREAD_DB))


def training_share(corpus: Corpus, config: TrainingConfig) -> float:
    """The same of the clean side of what is drawn for training."""
    mixtures = sampler(config, corpus, torch.Generator().manual_seed(0))
    return share_of_speech(torch.cat([mixtures.draw(64).clean for _ in range(DRAWN // 64)]).numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True, help="folder with speech/ and noise/")
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--speakers", type=int, default=10)
    parser.add_argument("--audio-hours", type=float, default=0.2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        spoken = 0.0
        for number, speaker in enumerate(sorted((given.corpus / "speech").iterdir())[: given.speakers]):
            paths = audio.find(speaker)
            spoken += sum(map(audio.seconds, paths))
            target = folder / "speech" / speaker.name / "session.wav"
            target.parent.mkdir(parents=True)
            writer.write(target, session(paths, given.hours, number), Format(RATE, "WAV", "PCM_16"))
        config = CorpusConfig(folder / "speech", given.corpus / "noise", RATE, group_noise=r"^\d-(\d+)-")
        corpus = prepare(config, folder / "corpora", processes=cores())
        training = TrainingConfig(segment_s=1.0, rungs_audio_hours=(given.audio_hours,))
        with Scorer(cores()) as scorer:
            sets = {name: evaluation_set(corpus, name, 48, (-5.0, 20.0), 0, scorer) for name in ("validation", "test")}
            print(header(f"python benchmarks/sessions.py --hours {given.hours:g} --speakers {given.speakers}"))
            share = spoken / 3600 / given.hours / given.speakers
            print(f"{given.speakers} sessions of {given.hours:g} h, {share:.0%} of them speech")
            for name, mixtures in sets.items():
                places = len({clip[:RATE].tobytes() for clip in mixtures.clean})
                share = share_of_speech(mixtures.clean)
                print(f"{name}: {share:.0%} of {len(mixtures.clean)} clips are speech, {places} places")
            for title, replaced in (("with all pauses", True), ("without long pauses", False)):
                keep_all = mock.patch.object(
                    training_mixtures, "speech_only", lambda _, clips, rate: list(enumerate(clips))
                )
                with keep_all if replaced else mock.MagicMock():
                    share = training_share(corpus, training)
                    trained = train(DenoiserConfig(), training, corpus, sets["validation"], scorer)
                trained.denoiser.eval()
                scores = score_denoiser(scorer, trained.denoiser, sets["test"]).means()
                noisy = sets["test"].noisy_scores.means()
                gains = ", ".join(f"{name} {scores[name] - noisy[name]:+.3f}" for name in ("pesq", "stoi", "si_sdr"))
                print(f"trained {title}: {share:.0%} of the segments have speech; test, over the noisy input: {gains}")


if __name__ == "__main__":
    main()

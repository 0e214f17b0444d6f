"""Recordings -> decoded corpus. Each is decoded once, by several processes, and opened by every worker after it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quell import audio
from quell.corpus import Clip, Corpus, open_store
from quell.digests import Digests
from quell.errors import AudioError, CorpusError
from quell.recordings import CorpusConfig, Progress, Recording, leaks, scan
from quell.splits import SPLITS, point

# Version of the decoded files. Raise it when the same recordings would be decoded to other samples.
DECODER = 1
SILENT = 1e-4  # peak, -80 dB of full scale: nothing was recorded
# Recordings that are being decoded, or wait for their turn to be written, for each process.
AHEAD = 4
# Fewer recordings than these are decoded before a process has started.
WORTH_A_PROCESS = 200

Samples = NDArray[np.int16]


def prepare(config: CorpusConfig, store: Path, progress: Progress | None = None, processes: int = 1) -> Corpus:
    """The decoded corpus, opened from `store` when these very files were decoded before, else decoded now.

    A build goes to a folder of its own and is renamed at the end: one that is interrupted leaves nothing under the
    final name. Of two at once one waits for the other. Recordings that another corpus in `store` holds are copied
    from there, and silent ones are left out.

    Raises:
        AudioError: a recording that cannot be read.
        CorpusError: a folder that is missing or empty, too few groups for three splits, a group in two
            splits, or a full disk.
    """
    recordings, folder = home(config, store)
    if not (folder / "index.json").exists():
        with _alone(store):
            if not (folder / "index.json").exists():
                _build(config, recordings, folder, progress, processes)
    return open_store(folder)


def home(config: CorpusConfig, store: Path) -> tuple[list[Recording], Path]:
    """The recordings with their digests, and the folder that their decoded corpus has or would have.

    Raises:
        AudioError, CorpusError: as `prepare`.
    """
    digests = Digests(store)
    recordings = scan(config, digests.of)
    digests.save()
    return recordings, store / fingerprint(config, recordings)


def fingerprint(config: CorpusConfig, recordings: Iterable[Recording]) -> str:
    """16 hex digits over all that changes the decoded corpus, wherever its folders lie."""
    splits = config.splits if isinstance(config.splits, str) else dict(config.splits)
    settings: dict[str, Any] = {
        "clean": None,
        "noise": None,
        "sample_rate": config.sample_rate,
        "group_clean": config.group_clean,
        "group_noise": config.group_noise,
        "splits": "listed" if isinstance(splits, str) else splits,  # each recording says its own
        "hours": config.hours,
        "decoder": DECODER,
    }
    text = json.dumps([settings, [asdict(recording) for recording in recordings]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def _alone(store: Path) -> Iterator[None]:
    """One build at a time in a store; who comes second finds the first one's corpus, and need not decode it."""
    try:
        store.mkdir(parents=True, exist_ok=True)
        with (store / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise CorpusError(f"{store}: {error.strerror}, expected a folder to write to; check --runs") from error


def _build(
    config: CorpusConfig, recordings: list[Recording], folder: Path, progress: Progress | None, processes: int
) -> None:
    for (kind, group), splits in leaks(recordings).items():
        found = f"{config.folder(kind)}: group {group!r} lies in {' and '.join(splits)}"
        raise CorpusError(f"{found}, expected one split; move its recordings together")
    building = folder.with_name(f".{folder.name}.{os.getpid()}")
    for left in folder.parent.glob(".*.*"):  # of builds that were killed: this one is alone
        shutil.rmtree(left, ignore_errors=True)
    known = _decoded_before(config, folder.parent)
    _refuse_full(config, recordings, folder.parent)
    building.mkdir()
    try:
        _decode(config, recordings, known, building, progress, processes)
        building.rename(folder)
    except OSError as error:
        raise CorpusError(f"{folder}: {error}, expected room for the decoded corpus; free the disk") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _refuse_full(config: CorpusConfig, recordings: Sequence[Recording], store: Path) -> None:
    """Raises CorpusError when the disk has less room than the decoded corpus will take, by the headers."""
    if config.hours:
        return  # less than all
    with ThreadPoolExecutor(8) as threads:  # which wait for the disk
        seconds = sum(threads.map(lambda one: _seconds(config.folder(one.kind) / one.path), recordings))
    needed, free = 2 * config.sample_rate * seconds, shutil.disk_usage(store).free
    if needed > free:
        raise CorpusError(
            f"{store}: {free / 1e9:.1f} GB free, expected {needed / 1e9:.1f} GB for the decoded corpus; free the disk, "
            "choose other --runs, or set corpus.hours"
        )


def _seconds(path: Path) -> float:
    try:
        header = audio.Recording(path)
    except AudioError:
        return 0.0  # the decoder says what is wrong
    return header.frames / header.stored.sample_rate


@dataclass(frozen=True)
class _Place:
    """Where decoded samples are."""

    file: Path
    offset: int
    length: int

    def samples(self) -> Samples:
        return np.fromfile(self.file, np.int16, self.length, offset=2 * self.offset)


def _decoded_before(config: CorpusConfig, store: Path) -> dict[str, _Place]:
    """What other corpora of this store hold at this rate, by `_key`."""
    found: dict[str, _Place] = {}
    for file in sorted(store.glob("*/index.json")):
        try:
            index = json.loads(file.read_text())
        except (OSError, ValueError):
            continue
        if (index.get("sample_rate"), index.get("decoder")) != (config.sample_rate, DECODER):
            continue
        for split, clips in index["splits"].items():
            for clip in clips:
                key = index["digests"].get(f"{clip['kind']}/{clip['path']}")
                if key is not None:
                    found[key] = _Place(file.parent / f"{split}.int16", clip["offset"], clip["length"])
    return found


def _key(recording: Recording) -> str:
    """What its decoded samples depend on besides the rate."""
    return f"{recording.kind} {recording.digest}"


def _decode(
    config: CorpusConfig,
    recordings: list[Recording],
    known: dict[str, _Place],
    folder: Path,
    progress: Progress | None,
    processes: int,
) -> None:
    """Writes one memory map per split and the index; `hours` is used up in the order of the names' hashes."""
    clips: dict[str, list[Clip]] = {name: [] for name in SPLITS}
    written = dict.fromkeys(SPLITS, 0)
    speech = dict.fromkeys(SPLITS, 0)

    def enough(recording: Recording) -> bool:
        wanted = config.hours * config.shares[recording.split] * 3600 * config.sample_rate
        return recording.kind == "clean" and config.hours > 0 and speech[recording.split] >= wanted

    order = sorted(recordings, key=lambda r: point(r.path)) if config.hours else recordings
    files = {name: (folder / f"{name}.int16").open("wb") for name in SPLITS}
    try:
        for done, (recording, samples) in enumerate(_decoded(config, order, known, enough, processes)):
            if progress is not None:
                progress(done, len(order))
            if samples is None or len(samples) == 0 or enough(recording):
                continue
            split = recording.split
            files[split].write(samples.tobytes())  # unlike tofile it says why it cannot
            place = (written[split], len(samples))
            clips[split].append(Clip(recording.kind, recording.path, recording.group, recording.category, *place))
            written[split] += len(samples)
            speech[split] += len(samples) if recording.kind == "clean" else 0
    finally:
        for file in files.values():
            file.close()
    index = {
        "sample_rate": config.sample_rate,
        "decoder": DECODER,
        "splits": {name: [asdict(clip) for clip in sorted(clips[name], key=lambda c: c.path)] for name in SPLITS},
        "digests": {recording.name: _key(recording) for recording in recordings},
    }
    (folder / "index.json").write_text(json.dumps(index))


def _decoded(
    config: CorpusConfig,
    order: Sequence[Recording],
    known: dict[str, _Place],
    enough: Any,
    processes: int,
) -> Iterator[tuple[Recording, Samples | None]]:
    """The samples of each recording in that order; None for one that is not wanted any more. No more than AHEAD
    recordings for each process are in memory."""
    executor = _executor(processes, sum(_key(recording) not in known for recording in order))
    ahead: deque[tuple[Recording, Future[Samples] | None]] = deque()
    try:
        for recording in order:
            future = None
            if not enough(recording):
                place = known.get(_key(recording))
                path, noise = config.folder(recording.kind) / recording.path, recording.kind == "noise"
                if place is not None:
                    future = _now(place.samples)
                elif executor is None:
                    future = _now(decode, path, config.sample_rate, noise)
                else:
                    future = executor.submit(decode, path, config.sample_rate, noise)
            ahead.append((recording, future))
            if executor is None or len(ahead) >= AHEAD * processes:
                yield _result(*ahead.popleft())
        while ahead:
            yield _result(*ahead.popleft())
    finally:
        if executor is not None:
            executor.shutdown(cancel_futures=True)


def _executor(processes: int, recordings: int) -> Executor | None:
    if processes < 2 or recordings < WORTH_A_PROCESS:
        return None
    from quell.processes import pool

    return pool(processes)


def _now(function: Any, *arguments: Any) -> Future[Samples]:
    future: Future[Samples] = Future()
    future.set_result(function(*arguments))
    return future


def _result(recording: Recording, future: Future[Samples] | None) -> tuple[Recording, Samples | None]:
    return recording, None if future is None else future.result()


def decode(path: Path, sample_rate: int, noise: bool) -> Samples:
    """int16 samples with the peak at full scale, so that quiet recordings lose no digits; none of a silent recording.

    Digital silence at the ends of a noise is cut: published clips are padded with it, and a crop of it has no SNR.

    Raises:
        AudioError: the recording cannot be read.
    """
    waveform = audio.read_mono(path, sample_rate)
    peak = float(np.abs(waveform).max())
    if peak < SILENT:
        return np.zeros(0, np.int16)
    samples = np.round(waveform * (32767 / peak)).astype(np.int16)
    if noise:
        sounding = np.flatnonzero(np.abs(samples) > 1)
        samples = samples[sounding[0] : sounding[-1] + 1]
    return samples

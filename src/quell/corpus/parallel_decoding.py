"""What of a corpus is decoded, in which order, by how many processes; what another corpus holds is copied."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quell.corpus.decoding import Decoded, Samples, decode, decode_pair
from quell.corpus.recordings import CorpusConfig, Kind, Recording, partners

# Version of the decoded files. Raise it when the same recordings would be decoded to other samples.
DECODER = 1
# Batches that are being decoded, or wait for their turn to be written, for each process.
AHEAD = 2
# For a process at once: each recording costs the way between processes, too, and hours of them cost memory.
BATCH = 16
BATCH_BYTES = 32_000_000
# Fewer and smaller recordings than these are decoded before a process has started.
WORTH_A_PROCESS = 200
WORTH_BYTES = 20_000_000

_Task = tuple[Callable[..., Decoded], tuple[Any, ...]]  # a function and its arguments


@dataclass(frozen=True)
class StoredSamples:
    """Where decoded samples are."""

    file: Path
    offset: int
    length: int

    def samples(self) -> Samples:
        return np.fromfile(self.file, np.int16, self.length, offset=2 * self.offset)


@dataclass(frozen=True)
class DecodingJob:
    """What is decoded at once: a recording, or a pair of them.

    Attributes:
        recording: by whose name the samples are called; of a pair the clean one.
        noisy: of a pair.
        key: what the samples depend on besides the rate.
    """

    recording: Recording
    noisy: Recording | None
    key: str

    def path(self, config: CorpusConfig) -> Path:
        """Of the recording."""
        return config.folder(self.recording.kind) / self.recording.path

    def size(self, config: CorpusConfig) -> int:
        """Of the recording, bytes; 0 where there is none any more."""
        try:
            return self.path(config).stat().st_size
        except OSError:
            return 0

    def run(self, config: CorpusConfig) -> _Task:
        """A function and its arguments."""
        path = self.path(config)
        if self.noisy is None:
            trim_db = config.trim_db if self.recording.kind == "clean" else 0.0
            return decode, (path, config.sample_rate, self.recording.kind, trim_db)
        return decode_pair, (config.folder("noisy") / self.noisy.path, path, config.sample_rate, config.remix)


def listed(config: CorpusConfig, recordings: Sequence[Recording]) -> list[DecodingJob]:
    noisy = {clean.name: noisy for noisy, clean in partners(recordings)}
    jobs = []
    for recording in recordings:
        if recording.kind == "noisy":
            continue
        partner = noisy.get(recording.name)
        key = f"{recording.kind} {recording.digest}"
        if config.trim_db and recording.kind == "clean":
            key += f" {config.trim_db}"
        if partner is not None:
            key = f"pair {recording.digest} {partner.digest} {config.remix}"
        jobs.append(DecodingJob(recording, partner, key))
    return jobs


def decoded_before(config: CorpusConfig, store: Path) -> dict[str, dict[Kind, StoredSamples]]:
    """What other corpora of this store hold at this rate, by the keys of jobs."""
    found: dict[str, dict[Kind, StoredSamples]] = {}
    for file in sorted(store.glob("*/index.json")):
        try:
            index = json.loads(file.read_text())
        except (OSError, ValueError):
            continue
        if (index.get("sample_rate"), index.get("decoder")) != (config.sample_rate, DECODER):
            continue
        for split, clips in index["splits"].items():
            for clip in clips:
                key = index["keys"].get(f"{clip['kind']}/{clip['path']}")
                if key is not None:
                    place = StoredSamples(file.parent / f"{split}.int16", clip["offset"], clip["length"])
                    found.setdefault(key, {})[clip["kind"]] = place
    return found


def decoded(
    config: CorpusConfig,
    jobs: Sequence[DecodingJob],
    known: dict[str, dict[Kind, StoredSamples]],
    enough: Callable[[Recording], bool],
    processes: int,
) -> Iterator[tuple[DecodingJob, Decoded]]:
    """The samples of each job in that order; none of one that is not wanted any more. No more than AHEAD batches for
    each process are in memory."""
    executor = _executor(processes, [job.size(config) for job in jobs if job.key not in known])
    most = 1 if executor is None else AHEAD * processes
    ahead: deque[tuple[Sequence[DecodingJob], Future[list[Decoded]]]] = deque()
    try:
        for batch in _batches(config, jobs, 1 if executor is None else BATCH):
            tasks = [_task(config, job, known, enough) for job in batch]
            if executor is None or all(job.key in known for job in batch):
                future: Future[list[Decoded]] = Future()
                future.set_result(_all(tasks))
            else:
                future = executor.submit(_all, tasks)
            ahead.append((batch, future))
            if len(ahead) >= most:
                done, result = ahead.popleft()
                yield from zip(done, result.result(), strict=True)
        for done, result in ahead:
            yield from zip(done, result.result(), strict=True)
    finally:
        if executor is not None:
            executor.shutdown(cancel_futures=True)


def _batches(config: CorpusConfig, jobs: Sequence[DecodingJob], most: int) -> Iterator[Sequence[DecodingJob]]:
    """In that order: at most so many jobs, and no more than BATCH_BYTES of files unless it is one."""
    batch: list[DecodingJob] = []
    size = 0
    for job in jobs:
        more = job.size(config)
        if batch and (len(batch) == most or size + more > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(job)
        size += more
    if batch:
        yield batch


def _task(
    config: CorpusConfig,
    job: DecodingJob,
    known: dict[str, dict[Kind, StoredSamples]],
    enough: Callable[[Recording], bool],
) -> _Task:
    if enough(job.recording):
        return dict, ()
    return (_read, (known[job.key],)) if job.key in known else job.run(config)


def _all(tasks: Sequence[_Task]) -> list[Decoded]:
    return [function(*arguments) for function, arguments in tasks]


def _read(places: dict[Kind, StoredSamples]) -> Decoded:
    return {kind: place.samples() for kind, place in places.items()}


def _executor(processes: int, sizes: Sequence[int]) -> Executor | None:
    if processes < 2 or (len(sizes) < WORTH_A_PROCESS and sum(sizes) < WORTH_BYTES):
        return None
    from quell.processes import pool

    return pool(processes)

"""Decodes the recordings of a corpus in processes, in order; copies those that another corpus has decoded."""

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

# Version of the decoded files. Raise it when the same recordings decode to other samples.
DECODER = 1
# Batches per process that are decoded or wait to be written.
AHEAD = 2
# Most jobs and bytes of files in a batch: small batches cost transfers between processes, large ones memory.
BATCH = 16
BATCH_BYTES = 32_000_000
# Fewer jobs and fewer bytes than these are decoded here, in less time than a process takes to start.
MIN_JOBS = 200
MIN_BYTES = 20_000_000

_Task = tuple[Callable[..., Decoded], tuple[Any, ...]]  # a function and its arguments


@dataclass(frozen=True)
class StoredSamples:
    """Samples in a decoded corpus; offset and length in samples."""

    file: Path
    offset: int
    length: int

    def samples(self) -> Samples:
        return np.fromfile(self.file, np.int16, self.length, offset=2 * self.offset)


@dataclass(frozen=True)
class DecodingJob:
    """A recording, or a noisy/clean pair, to decode.

    Attributes:
        recording: names the samples; of a pair the clean one.
        noisy: the noisy recording of a pair.
        key: all that the samples depend on besides the rate.
    """

    recording: Recording
    noisy: Recording | None
    key: str

    def path(self, config: CorpusConfig) -> Path:
        """Path of the recording."""
        return config.folder(self.recording.kind) / self.recording.path

    def size(self, config: CorpusConfig) -> int:
        """Bytes of the recording's file; 0 if it no longer exists."""
        try:
            return self.path(config).stat().st_size
        except OSError:
            return 0

    def task(self, config: CorpusConfig) -> _Task:
        """The function that decodes, and its arguments."""
        path = self.path(config)
        if self.noisy is None:
            trim_db = config.trim_db if self.recording.kind == "clean" else 0.0
            return decode, (path, config.sample_rate, self.recording.kind, trim_db)
        return decode_pair, (config.folder("noisy") / self.noisy.path, path, config.sample_rate, config.remix)


def decoding_jobs(config: CorpusConfig, recordings: Sequence[Recording]) -> list[DecodingJob]:
    """One job for each recording or pair."""
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
    """Samples of other corpora in the store at the same rate, by the keys of jobs."""
    stored: dict[str, dict[Kind, StoredSamples]] = {}
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
                    samples = StoredSamples(file.parent / f"{split}.int16", clip["offset"], clip["length"])
                    stored.setdefault(key, {})[clip["kind"]] = samples
    return stored


def decoded(
    config: CorpusConfig,
    jobs: Sequence[DecodingJob],
    stored: dict[str, dict[Kind, StoredSamples]],
    is_full: Callable[[Recording], bool],
    processes: int,
) -> Iterator[tuple[DecodingJob, Decoded]]:
    """The samples of each job, in order, with at most AHEAD batches per process in memory.

    Args:
        stored: from `decoded_before`; these jobs are copied.
        is_full: whether a recording is no longer needed; its samples are then empty.
    """
    executor = _executor(processes, [job.size(config) for job in jobs if job.key not in stored])
    most = 1 if executor is None else AHEAD * processes
    ahead: deque[tuple[Sequence[DecodingJob], Future[list[Decoded]]]] = deque()
    try:
        for batch in _batches(config, jobs, 1 if executor is None else BATCH):
            tasks = [_task(config, job, stored, is_full) for job in batch]
            if executor is None or all(job.key in stored for job in batch):
                future: Future[list[Decoded]] = Future()
                future.set_result(_run(tasks))
            else:
                future = executor.submit(_run, tasks)
            ahead.append((batch, future))
            if len(ahead) >= most:
                first, result = ahead.popleft()
                yield from zip(first, result.result(), strict=True)
        for batch, result in ahead:
            yield from zip(batch, result.result(), strict=True)
    finally:
        if executor is not None:
            executor.shutdown(cancel_futures=True)


def _batches(config: CorpusConfig, jobs: Sequence[DecodingJob], most: int) -> Iterator[Sequence[DecodingJob]]:
    """Jobs in order, at most `most` and at most BATCH_BYTES of files in a batch, or one job."""
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
    stored: dict[str, dict[Kind, StoredSamples]],
    is_full: Callable[[Recording], bool],
) -> _Task:
    if is_full(job.recording):
        return dict, ()
    return (_read, (stored[job.key],)) if job.key in stored else job.task(config)


def _run(tasks: Sequence[_Task]) -> list[Decoded]:
    return [function(*arguments) for function, arguments in tasks]


def _read(stored: dict[Kind, StoredSamples]) -> Decoded:
    return {kind: samples.samples() for kind, samples in stored.items()}


def _executor(processes: int, sizes: Sequence[int]) -> Executor | None:
    if processes < 2 or (len(sizes) < MIN_JOBS and sum(sizes) < MIN_BYTES):
        return None
    from quell.processes import pool

    return pool(processes)

"""Decodes the recordings of a corpus in processes, in order; copies those that another corpus has decoded."""

import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from quell.check_sums import DamagedFileError, read_json
from quell.child_processes.child_pool import ChildPool, described
from quell.corpus.decoding import Decoded, decode, decode_pair
from quell.corpus.memory_map import INDEX, WITHDRAWN
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

Task = Callable[[], Decoded]


class StoredSamples(NamedTuple):
    """Decoded samples of a recording in another corpus; offset and length in samples."""

    file: Path
    offset: int
    length: int
    crc32: int | None  # None in a corpus of an earlier Quell


Stored = Mapping[str, Mapping[Kind, StoredSamples]]  # by the keys of the jobs


@dataclass(frozen=True)
class DecodingJob:
    """A recording, or a noisy/clean pair, to decode.

    Attributes:
        recording: names the samples; of a pair the clean one.
        noisy: the noisy recording of a pair.
        key: all that the samples depend on besides the rate.
        size: bytes of the recording's file; 0 if it no longer exists.
        decode: gives the samples, in any process.
    """

    recording: Recording
    noisy: Recording | None
    key: str
    size: int
    decode: Task


def decoding_jobs(config: CorpusConfig, recordings: Sequence[Recording]) -> list[DecodingJob]:
    """One job for each recording or pair."""
    noisy = {clean.name: noisy for noisy, clean in partners(recordings)}
    jobs = []
    for recording in recordings:
        if recording.kind == "noisy":
            continue
        path, partner = config.path(recording), noisy.get(recording.name)
        if partner is not None:
            key = f"pair {recording.digest} {partner.digest} {config.remix}"
            task = partial(decode_pair, config.path(partner), path, config.sample_rate, config.remix)
        else:
            trim_db = config.trim_db if recording.kind == "clean" else 0.0
            key = f"{recording.kind} {recording.digest}" + (f" {trim_db}" if trim_db else "")
            task = partial(decode, path, config.sample_rate, recording.kind, trim_db)
        jobs.append(DecodingJob(recording, partner, key, path.stat().st_size if path.exists() else 0, task))
    return jobs


def decoded_before(config: CorpusConfig, store: Path) -> Stored:
    """Samples of other corpora in the store at the same rate, also of damaged ones."""
    stored: dict[str, dict[Kind, StoredSamples]] = {}
    for file in sorted(file for name in (WITHDRAWN, INDEX) for file in store.glob(f"*/{name}")):
        try:
            index = read_json(file)
        except (OSError, ValueError, DamagedFileError):
            continue
        if (index.get("sample_rate"), index.get("decoder")) != (config.sample_rate, DECODER):
            continue
        for split, clips in index["splits"].items():
            sums = index["sums"][split] if "sums" in index else [None] * len(clips)
            for clip, crc32 in zip(clips, sums, strict=True):
                key = index["keys"].get(f"{clip['kind']}/{clip['path']}")
                if key is not None:
                    samples = StoredSamples(file.parent / f"{split}.int16", clip["offset"], clip["length"], crc32)
                    stored.setdefault(key, {})[clip["kind"]] = samples
    return stored


def decoded(
    jobs: Sequence[DecodingJob], stored: Stored, is_full: Callable[[Recording], bool], processes: int
) -> Iterator[tuple[DecodingJob, Decoded]]:
    """The samples of each job, in order, with at most AHEAD batches per process in memory.

    Args:
        stored: from `decoded_before`; these jobs are copied.
        is_full: whether a recording is no longer needed; its samples are then empty.
    """

    def task(job: DecodingJob) -> Task:
        if is_full(job.recording):
            return dict
        return partial(_copied, stored[job.key], job.decode) if job.key in stored else job.decode

    if not _worthwhile(processes, [job.size for job in jobs if job.key not in stored]):
        for job in jobs:
            yield job, task(job)()
        return
    ahead: deque[tuple[Sequence[DecodingJob], Future[list[Decoded]]]] = deque()
    with ChildPool(processes) as children:
        for batch in _batches(jobs):
            tasks = [task(job) for job in batch]
            if all(job.key in stored for job in batch):
                future: Future[list[Decoded]] = Future()
                future.set_result(_run(tasks))
            else:
                future = children.submit(described("decoding", [job.recording.name for job in batch]), _run, tasks)
            ahead.append((batch, future))
            if len(ahead) >= AHEAD * processes:
                first, result = ahead.popleft()
                yield from zip(first, result.result(), strict=True)
        for batch, result in ahead:
            yield from zip(batch, result.result(), strict=True)


def _batches(jobs: Sequence[DecodingJob]) -> Iterator[Sequence[DecodingJob]]:
    """Jobs in order, at most BATCH and at most BATCH_BYTES of files in a batch, or one job."""
    batch: list[DecodingJob] = []
    size = 0
    for job in jobs:
        if batch and (len(batch) == BATCH or size + job.size > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(job)
        size += job.size
    if batch:
        yield batch


def _run(tasks: Sequence[Task]) -> list[Decoded]:
    return [task() for task in tasks]


def _copied(stored: Mapping[Kind, StoredSamples], decode: Task) -> Decoded:
    """The samples as another corpus has them; decoded where those are damaged."""
    decoded: Decoded = {}
    for kind, (file, offset, length, crc32) in stored.items():
        try:
            samples = np.fromfile(file, np.int16, length, offset=2 * offset)
        except OSError:
            return decode()
        if len(samples) != length or crc32 not in (None, zlib.crc32(samples.data)):
            return decode()
        decoded[kind] = samples
    return decoded


def _worthwhile(processes: int, sizes: Sequence[int]) -> bool:
    return processes > 1 and (len(sizes) >= MIN_JOBS or sum(sizes) >= MIN_BYTES)

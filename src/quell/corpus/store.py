"""Builds a decoded corpus once, with several processes, or opens it."""

import hashlib
import json
import logging
import shutil
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from quell import audio, locks
from quell.atomic import new_folder, replacing, sync
from quell.check_sums import read_json, sealed_json
from quell.corpus import parallel_decoding
from quell.corpus.file_digests import Digests
from quell.corpus.memory_map import INDEX, Clip, Corpus, open_store
from quell.corpus.recordings import CorpusConfig, Recording
from quell.corpus.scan import leaks, scan, unpaired
from quell.corpus.splits import SPLITS, point
from quell.errors import CorpusError
from quell.progress import Progress, ignore

log = logging.getLogger("quell")

BUILD_S = 24 * 3600.0  # a corpus that takes longer to decode is not decoded at all


def prepare(
    config: CorpusConfig,
    store: Path,
    progress: Progress = ignore,
    processes: int = 1,
    whole: Collection[str] = (),
) -> Corpus:
    """The decoded corpus, opened from `store` if the same files were decoded before, else decoded now.

    A build is renamed to its final name at its end, so an interrupted one leaves nothing there; of two builds at once,
    one waits for the other, and says for which. Recordings that another corpus in `store` has decoded are copied from
    there, and silent ones are left out. A damaged corpus is built again in the same way, out of its own recordings that
    are intact.

    Args:
        whole: splits that will be read whole: they are checked now, others when they are read.

    Raises:
        AudioError: a recording cannot be read.
        CorpusError: a folder is missing or empty, there are too few groups for three splits, a group is in two splits,
            or the disk is full.
    """
    recordings, folder = home(config, store)
    corpus = _opened(folder, whole)
    if corpus is None:
        with _build_lock(store):
            corpus = _opened(folder, whole)
            if corpus is None:
                _build(config, recordings, folder, progress, processes)
                corpus = open_store(folder)
    return corpus


def _opened(folder: Path, whole: Collection[str]) -> Corpus | None:
    """The corpus in a folder; None where there is none or a damaged one."""
    if not (folder / INDEX).exists():
        return None
    try:
        corpus = open_store(folder)
        if not corpus.has_sums:
            corpus = _with_sums(corpus)
        for name in whole:
            corpus.splits[name].whole()
    except CorpusError:
        log.warning("%s: damaged; its damaged recordings are decoded again", folder)
        return None
    return corpus


def _with_sums(corpus: Corpus) -> Corpus:
    """Adds check sums to the index of a corpus that an earlier Quell decoded, whose samples are taken as they are: that
    Quell may have decoded them in another way, and trials were trained on them."""
    index = read_json(corpus.folder / INDEX)
    index["sums"] = {
        name: [zlib.crc32(split.stored(clip).data) for clip in split.clips] for name, split in corpus.splits.items()
    }
    try:
        with replacing(corpus.folder / INDEX) as partial:
            partial.write_text(sealed_json(index))
    except OSError:  # a folder that cannot be written
        return corpus
    return open_store(corpus.folder)


def home(config: CorpusConfig, store: Path) -> tuple[list[Recording], Path]:
    """The recordings with their digests, and the folder of their decoded corpus, which may not exist yet.

    Raises:
        AudioError, CorpusError: as `prepare`.
    """
    digests = Digests(store)
    recordings = scan(config, digests.of)
    digests.save()
    return recordings, store / fingerprint(config, recordings)


def fingerprint(config: CorpusConfig, recordings: Iterable[Recording]) -> str:
    """16 hex digits over all that the decoded corpus depends on, which the paths of its folders are not."""
    settings: dict[str, Any] = {
        "clean": None,
        "noise": None,
        "sample_rate": config.sample_rate,
        "group_clean": config.group_clean,
        "group_noise": config.group_noise,
        "splits": "listed" if isinstance(config.splits, str) else dict(config.splits),  # each recording has its own
        "hours": config.hours,
        "decoder": parallel_decoding.DECODER,
    }
    if config.noisy is not None:
        settings["remix"] = config.remix
    if config.trim_db:
        settings["trim_db"] = config.trim_db
    text = json.dumps([settings, [asdict(recording) for recording in recordings]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def _build_lock(store: Path) -> Iterator[None]:
    """Lets one build at a time run in a store, so that the next finds the corpus decoded."""
    try:
        store.mkdir(parents=True, exist_ok=True)
        with locks.hold(store / ".lock", BUILD_S):
            yield
    except OSError as error:
        raise CorpusError(f"{store}: {error.strerror}, expected a folder to write to; check --runs") from error


def _build(config: CorpusConfig, recordings: list[Recording], folder: Path, progress: Progress, processes: int) -> None:
    for problem in (*leaks(config, recordings), *unpaired(config, recordings)):
        raise CorpusError(problem.text)
    for partial in folder.parent.glob(".[0-9a-f]*.*"):  # of killed builds: under the lock no other runs
        shutil.rmtree(partial, ignore_errors=True)
    stored = parallel_decoding.decoded_before(config, folder.parent)
    _refuse_full(config, recordings, folder.parent)
    try:
        with new_folder(folder) as partial_folder:
            _decode(config, recordings, stored, partial_folder, progress, processes)
            damaged = _moved_aside(folder, partial_folder)
        shutil.rmtree(damaged, ignore_errors=True)
    except OSError as error:
        raise CorpusError(f"{folder}: {error}, expected room for the decoded corpus; free the disk") from error


def _moved_aside(folder: Path, successor: Path) -> Path:
    """Where a damaged corpus is moved to, if there is one, so that its successor can take its name.

    Its held-out sets go to the successor: they have check sums of their own, and trials were scored on them.
    """
    aside = folder.with_name(f".{folder.name}.damaged")  # the next build removes it if this one is killed now
    with suppress(FileNotFoundError):
        for held_out in folder.glob("*.npz"):
            held_out.rename(successor / held_out.name)
        folder.rename(aside)
    return aside


def _refuse_full(config: CorpusConfig, recordings: Sequence[Recording], store: Path) -> None:
    """Raises CorpusError when the disk has less space than the decoded corpus takes, by the headers."""
    if config.hours:
        return  # only a part is decoded
    with ThreadPoolExecutor(8) as threads:  # they wait for the disk
        seconds = sum(threads.map(lambda one: audio.seconds(config.path(one)), recordings))
    needed, free = 2 * config.sample_rate * seconds, shutil.disk_usage(store).free
    if needed > free:
        raise CorpusError(
            f"{store}: {free / 1e9:.1f} GB free, expected {needed / 1e9:.1f} GB for the decoded corpus; free the disk, "
            "choose other --runs, or set corpus.hours"
        )


def _decode(
    config: CorpusConfig,
    recordings: list[Recording],
    stored: parallel_decoding.Stored,
    folder: Path,
    progress: Progress,
    processes: int,
) -> None:
    """Writes one memory map per split and the index; with `hours`, recordings are taken in the order of `point`."""
    clips: dict[str, list[Clip]] = {name: [] for name in SPLITS}
    sums: dict[Clip, int] = {}
    speech = dict.fromkeys(SPLITS, 0)
    keys: dict[str, str] = {}

    def is_full(recording: Recording) -> bool:
        most = config.hours * config.shares[recording.split] * 3600 * config.sample_rate
        return recording.kind == "clean" and config.hours > 0 and speech[recording.split] >= most

    jobs = parallel_decoding.decoding_jobs(config, recordings)
    if config.hours:
        jobs.sort(key=lambda job: point(job.recording.path))
    with ExitStack() as stack:
        files = {name: stack.enter_context((folder / f"{name}.int16").open("wb")) for name in SPLITS}
        for done, (job, decoded) in enumerate(parallel_decoding.decoded(jobs, stored, is_full, processes)):
            progress(done, len(jobs))
            recording, split = job.recording, job.recording.split
            if is_full(recording):
                continue
            for kind, samples in decoded.items():
                path = job.noisy.path if job.noisy is not None and kind != "clean" else recording.path
                begin = files[split].tell() // samples.itemsize
                clip = Clip(kind, path, recording.group, recording.category, begin, len(samples))
                clips[split].append(clip)
                sums[clip] = zlib.crc32(samples.data)
                files[split].write(samples.tobytes())  # unlike tofile, its error has a reason
                keys[f"{kind}/{path}"] = job.key
                speech[split] += len(samples) if kind == "clean" else 0
    for name in SPLITS:
        sync(folder / f"{name}.int16")
        clips[name].sort(key=lambda clip: clip.path)
    index = {
        "sample_rate": config.sample_rate,
        "decoder": parallel_decoding.DECODER,
        "splits": {name: [asdict(clip) for clip in clips[name]] for name in SPLITS},
        "keys": keys,
        "sums": {name: [sums[clip] for clip in clips[name]] for name in SPLITS},
    }
    (folder / INDEX).write_text(sealed_json(index))
    sync(folder / INDEX)

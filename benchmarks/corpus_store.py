"""Cost of decoding hours of speech: time, disk, memory; and of opening and checking the decoded corpus.

    python benchmarks/corpus_store.py --corpus FOLDER [--hours 8]

Recordings of FOLDER/speech are repeated as FLAC, with another level and a little noise, until they last so long.
"""

import argparse
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from header import header

from quell import audio
from quell.audio import writer
from quell.audio.formats import Format
from quell.audit.corpus_audit import audit
from quell.corpus.recordings import CorpusConfig
from quell.corpus.store import prepare
from quell.processes import cores

RATE = 16_000


def repeat(source: Path, folder: Path, hours: float) -> float:
    """Writes at least `hours` hours of speech; returns their number."""
    paths = audio.find(source)
    rng = np.random.default_rng(0)
    seconds, turn = 0.0, 0
    while seconds < hours * 3600:
        for path in paths:
            samples = audio.read_mono(path, RATE)
            if turn:
                samples = rng.uniform(0.3, 0.9) * samples + 1e-4 * rng.standard_normal(len(samples)).astype(np.float32)
            place = folder / f"{path.parent.name}-{turn}" / path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            writer.write(place, samples.astype(np.float32), Format(RATE, "FLAC", "PCM_16"))
            seconds += len(samples) / RATE
            if seconds >= hours * 3600:
                break
        turn += 1
    return seconds / 3600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True, help="folder with speech/ and noise/")
    parser.add_argument("--hours", type=float, default=8.0)
    given = parser.parse_args()
    processes = cores()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        hours = repeat(given.corpus / "speech", folder / "speech", given.hours)
        shutil.copytree(given.corpus / "noise", folder / "noise")
        config = CorpusConfig(folder / "speech", folder / "noise", RATE, group_noise=r"^\d-(\d+)-")
        begun = time.perf_counter()
        corpus = prepare(config, folder / "store", processes=processes)
        decoded = time.perf_counter() - begun
        largest = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        samples = sum(clip.length for split in corpus.splits.values() for clip in split.clips)
        stored = sum(path.stat().st_size for path in corpus.folder.rglob("*"))
        opened = []
        for _ in range(5):
            begun = time.perf_counter()
            prepare(config, folder / "store")
            opened.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        audited = audit(config, processes)
        checked = time.perf_counter() - begun
        print(header(f"python benchmarks/corpus_store.py {' '.join(sys.argv[1:])}"))
        print(f"{hours:.1f} h of speech, {len(audited.inspections)} files; {processes} processes\n")
        print("| quantity | value |\n|---|---|")
        print(f"| decoding | {decoded:.1f} s |")
        print(f"| disk over its samples in int16 | {stored / (2 * samples):.4f} |")
        print(f"| largest process | {largest / 1000:.0f} MB |")
        print(f"| opening again, first and median of 5 | {opened[0]:.2f} s, {np.median(opened):.2f} s |")
        print(f"| check | {checked:.1f} s, {len(audited.errors)} errors |")


if __name__ == "__main__":
    main()

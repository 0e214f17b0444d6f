"""Public corpora by name: addresses, sizes, licences, and the layout of their files for studies.

Addresses and checksums are those published by the authors and by libraries that use the corpora; archives that GitHub
generates for each download have no checksum.
"""

import csv
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from quell import locks
from quell.errors import DownloadError
from quell.progress import Progress

Moves = Iterator[tuple[Path, Path]]  # (unpacked file, its path below the folder of the corpus)

# Exists in a folder once it is complete.
DONE = "SOURCE.txt"
UNPACKED = "unpacked"
# Speakers of VoiceBank's training folders for validation, as is usual: one woman, one man.
VALIDATION_SPEAKERS = ("p226", "p287")


@dataclass(frozen=True)
class Archive:
    """A file to download; its contents are unpacked into a folder of its name."""

    name: str
    url: str
    checksum: str | None = None  # as `quell.datasets.download.fetch` takes it


@dataclass(frozen=True)
class PublicCorpus:
    """A corpus to download."""

    what: str
    licence: str
    cite: str
    study: str  # file of studies/ that is made for it
    about_mb: int | None  # size of all archives, 10 ** 6 bytes, roughly; None if unknown
    archives: tuple[Archive, ...]
    layout: Callable[[Path], Moves]  # of the unpacked archives


def get(name: str, folder: Path, progress: Callable[[str], Progress]) -> None:
    """Downloads, unpacks and lays out a corpus; resumes an interrupted download.

    Args:
        folder: new, or of an interrupted download.
        progress: gives the callback for a step, from its description.

    Raises:
        KeyError: an unknown name.
        DownloadError: as `quell.datasets.download.fetch` and `unpack`, or archives that hold something else.
        LockError: another process downloads into the folder; both would append to the same files.
    """
    corpus = CORPORA[name]
    if (folder / DONE).exists():
        return
    beside = folder / ".downloads"
    try:
        beside.mkdir(parents=True, exist_ok=True)
        with locks.hold(beside / "lock", 0):
            _download(corpus, beside, progress)
            _move(corpus.layout(beside / UNPACKED), folder)
            (folder / DONE).write_text(source(name))
            shutil.rmtree(beside)
    except OSError as error:
        needed = "expected to write there; choose another folder, or free the disk"
        raise DownloadError(f"{folder}: {error.strerror or error}, {needed}") from error


def _download(corpus: PublicCorpus, beside: Path, progress: Callable[[str], Progress]) -> None:
    # Imported here: http.client, zipfile and tarfile would add a tenth of a second to each command's help.
    from quell.datasets.download import fetch, unpack

    for archive in corpus.archives:
        path = beside / archive.name
        fetch(archive.url, path, checksum=archive.checksum, progress=progress(f"downloading {archive.name}"))
        unpack(path, beside / UNPACKED / archive.name, progress(f"unpacking {archive.name}"))


def source(name: str) -> str:
    """Address, licence and citation of a corpus."""
    corpus = CORPORA[name]
    urls = "\n".join(archive.url for archive in corpus.archives)
    return f"{name}: {corpus.what}\nLicence: {corpus.licence}\nCite: {corpus.cite}\n{urls}\n"


def _move(files: Moves, folder: Path) -> None:
    """Moves files to paths below a folder; files that an earlier try has moved stay there."""
    count = 0
    for source, path in files:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
        count += 1
    if count == 0 and not any(path.is_file() for path in folder.rglob("*") if ".downloads" not in path.parts):
        raise DownloadError(f"{folder}: nothing to move, expected recordings in the archive; was it published anew?")


def _librispeech(unpacked: Path) -> Moves:
    """speech/<speaker>/<chapter>/<speaker>-<chapter>-<utterance>.flac"""
    for path in sorted(unpacked.glob("*/LibriSpeech/*/*/*/*.flac")):
        yield path, Path("speech", *path.parts[-3:])


def _esc_50(unpacked: Path) -> Moves:
    """noise/<class>/<fold>-<source>-<take>-<number of the class>.wav"""
    table = next(iter(unpacked.glob("*/*/meta/esc50.csv")), None)
    if table is None:
        raise DownloadError(f"{unpacked}: no meta/esc50.csv, expected the archive of ESC-50; was it published anew?")
    with table.open(newline="") as file:
        classes = {row["filename"]: row["category"] for row in csv.DictReader(file)}
    for path in sorted(unpacked.glob("*/*/audio/*.wav")):
        if path.name in classes:
            yield path, Path("noise", classes[path.name], path.name)


def _voicebank(unpacked: Path) -> Moves:
    """clean/<split>/<speaker>_<utterance>.wav and noisy/ with the same names"""
    for path in sorted(unpacked.rglob("*.wav")):
        side, part = re.match(r"(clean|noisy)_(train|test)", path.relative_to(unpacked).parts[0]).groups()  # type: ignore[union-attr]
        if part == "train" and path.name.split("_")[0] in VALIDATION_SPEAKERS:
            part = "validation"
        yield path, Path(side, part, path.name)


def _ms_snsd(unpacked: Path) -> Moves:
    """speech/<part>/<name>.wav and noise/<class>/<part>-<class>_<number>.wav; the parts are train and test, but the
    speakers are unknown, and studies split the recordings themselves"""
    for path in sorted(unpacked.rglob("*.wav")):
        side, _, part = path.parent.name.partition("_")
        if side == "clean" and part in ("train", "test"):
            yield path, Path("speech", part, path.name)
        elif side == "noise" and part in ("train", "test"):
            yield path, Path("noise", re.split(r"[_\d]", path.name)[0], f"{part}-{path.name}")


CORPORA = {
    "librispeech-dev": PublicCorpus(
        "LibriSpeech dev-clean: 5.4 h of read English by 40 speakers, 16 kHz",
        "CC BY 4.0",
        "Panayotov et al. 2015, Librispeech: an ASR corpus based on public domain audio books, ICASSP",
        "esc50-8k.toml",
        338,
        (
            Archive(
                "dev-clean.tar.gz",
                "https://www.openslr.org/resources/12/dev-clean.tar.gz",
                "sha256:76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3",
            ),
        ),
        _librispeech,
    ),
    "esc-50": PublicCorpus(
        "ESC-50: 2000 recordings of 5 s, 50 kinds of everyday sounds, 44.1 kHz",
        "CC BY-NC 3.0; its subset ESC-10 CC BY 3.0",
        "Piczak 2015, ESC: Dataset for environmental sound classification, ACM Multimedia",
        "esc50-8k.toml",
        600,
        (Archive("esc-50.zip", "https://github.com/karolpiczak/ESC-50/archive/refs/heads/master.zip"),),
        _esc_50,
    ),
    "voicebank-demand": PublicCorpus(
        "VoiceBank + DEMAND: 11,572 and 824 pairs of noisy and clean utterances by 28 and 2 speakers, 48 kHz",
        "CC BY 4.0",
        "Valentini-Botinhao et al. 2016, Investigating RNN-based speech enhancement methods for noise-robust "
        "text-to-speech, SSW 9",
        "voicebank-demand.toml",
        5260,
        tuple(
            Archive(name, f"https://datashare.ed.ac.uk/bitstream/handle/10283/2791/{name}", f"md5:{digest}")
            for name, digest in (
                ("clean_trainset_28spk_wav.zip", "d2d5a45ec32f8fcbf201bde0447e20ba"),
                ("noisy_trainset_28spk_wav.zip", "1fca9e8bafb8cd069f6653c6d92f9e9c"),
                ("clean_testset_wav.zip", "34eb1c0ba7ef667e9b966866c542fc16"),
                ("noisy_testset_wav.zip", "fb1b86caa31e8ba5b506c0c64da9aab5"),
            )
        ),
        _voicebank,
    ),
    "ms-snsd": PublicCorpus(
        "MS-SNSD: clean speech and 14 kinds of noise, 16 kHz",
        "ODbL and CC0, CC BY 3.0, CC BY-SA 4.0 by recording; LICENSE and the lists inside say which",
        "Reddy et al. 2019, A scalable noisy speech dataset and online subjective test framework, Interspeech",
        "ms-snsd.toml",
        None,
        (Archive("ms-snsd.zip", "https://github.com/microsoft/MS-SNSD/archive/refs/heads/master.zip"),),
        _ms_snsd,
    ),
}

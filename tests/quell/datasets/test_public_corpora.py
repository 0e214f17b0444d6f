"""Public corpora are laid out as their studies need them, and say whose they are."""

from __future__ import annotations

import io
import threading
import tomllib
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile
from quell_tuning.cli import corpus as recordings_commands
from quell_tuning.errors import UsageError

from quell import locks
from quell.datasets import public_corpora
from quell.datasets.public_corpora import CORPORA, DONE, get
from quell.errors import DownloadError, LockError

ROOT = Path(__file__).parents[3]


def sound(seed=0):
    file = io.BytesIO()
    soundfile.write(file, np.random.default_rng(seed).uniform(-0.1, 0.1, 200), 16_000, format="WAV")
    return file.getvalue()


# What the archives hold, as published; and where it lies afterwards.
ESC = "ESC-50-master"
ESC_TABLE = "filename,fold,target,category\n1-1-A-0.wav,1,0,dog\n2-9-B-1.wav,2,1,rooster\n"
SNSD = "MS-SNSD-master"
PUBLISHED = {
    "librispeech-dev": (
        {"dev-clean.tar.gz": {"LibriSpeech/dev-clean/84/121123/84-121123-0000.flac": sound()}},
        {"speech/84/121123/84-121123-0000.flac"},
    ),
    "esc-50": (
        {
            "esc-50.zip": {
                f"{ESC}/audio/1-1-A-0.wav": sound(),
                f"{ESC}/audio/2-9-B-1.wav": sound(1),
                f"{ESC}/meta/esc50.csv": ESC_TABLE.encode(),
            }
        },
        {"noise/dog/1-1-A-0.wav", "noise/rooster/2-9-B-1.wav"},
    ),
    "voicebank-demand": (
        {
            f"{side}_{part}_wav.zip": {f"{side}_{part}_wav/{name}.wav": sound() for name in names}
            for side in ("clean", "noisy")
            for part, names in (("trainset_28spk", ("p226_001", "p227_001")), ("testset", ("p232_001",)))
        },
        {
            f"{side}/{place}.wav"
            for side in ("clean", "noisy")
            for place in ("validation/p226_001", "train/p227_001", "test/p232_001")
        },
    ),
    "ms-snsd": (
        {
            "ms-snsd.zip": {
                f"{SNSD}/clean_train/clnsp1.wav": sound(),
                f"{SNSD}/clean_test/clnsp1.wav": sound(1),
                f"{SNSD}/noise_train/AirConditioner_1.wav": sound(2),
                f"{SNSD}/noise_test/Babble_3.wav": sound(3),
                f"{SNSD}/README.md": b"text",
            }
        },
        {
            "speech/train/clnsp1.wav",
            "speech/test/clnsp1.wav",
            "noise/AirConditioner/train-AirConditioner_1.wav",
            "noise/Babble/test-Babble_3.wav",
        },
    ),
}


@pytest.fixture
def served(monkeypatch):
    """Serves archives, by name, as those of a corpus."""
    servers = []

    def serve(name, archives):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                body = archives[self.path[1:]]
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        servers.append((http, thread))
        url = f"http://127.0.0.1:{http.server_address[1]}"
        here = tuple(replace(archive, url=f"{url}/{archive.name}", checksum=None) for archive in CORPORA[name].archives)
        monkeypatch.setitem(public_corpora.CORPORA, name, replace(CORPORA[name], archives=here))

    yield serve
    for http, thread in servers:
        http.shutdown()
        http.server_close()
        thread.join()


def packed(files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def quiet(what):
    return lambda done, total: None


def recordings(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix in (".wav", ".flac")}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_corpus_has_the_layout_that_its_study_needs(served, tmp_path, name):
    archives, places = PUBLISHED[name]
    served(name, {archive: packed(files) for archive, files in archives.items()})
    get(name, tmp_path / "corpus", quiet)
    assert recordings(tmp_path / "corpus") == places
    printed = (tmp_path / "corpus" / DONE).read_text()
    assert CORPORA[name].licence in printed and CORPORA[name].cite in printed
    assert not (tmp_path / "corpus" / ".downloads").exists()


def test_a_complete_corpus_is_not_downloaded_again(served, tmp_path):
    archives, places = PUBLISHED["esc-50"]
    served("esc-50", {archive: packed(files) for archive, files in archives.items()})
    get("esc-50", tmp_path, quiet)
    served("esc-50", {})  # which would answer nothing
    get("esc-50", tmp_path, quiet)
    assert recordings(tmp_path) == places


def test_an_interrupted_layout_is_finished_by_the_next_run(served, tmp_path, monkeypatch):
    archives, places = PUBLISHED["voicebank-demand"]
    served("voicebank-demand", {archive: packed(files) for archive, files in archives.items()})
    replace_file, moved = Path.replace, []

    def stop(path, target):
        if path.suffix == ".wav":
            moved.append(path)
            if len(moved) == 3:
                raise KeyboardInterrupt
        return replace_file(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            get("voicebank-demand", tmp_path, quiet)
    assert not (tmp_path / DONE).exists()
    get("voicebank-demand", tmp_path, quiet)
    assert recordings(tmp_path) == places


@pytest.mark.parametrize("name", PUBLISHED)
def test_archives_of_something_else_are_refused(served, tmp_path, name):
    served(name, {archive.name: packed({"README": b"moved"}) for archive in CORPORA[name].archives})
    with pytest.raises(DownloadError, match=r"expected (recordings in the archive|the archive of ESC-50)"):
        get(name, tmp_path, quiet)
    assert not (tmp_path / DONE).exists()


def test_an_archive_that_would_write_elsewhere_is_refused(served, tmp_path):
    served("esc-50", {"esc-50.zip": packed({f"{ESC}/audio/x.wav": sound(), "../../evil.wav": sound()})})
    with pytest.raises(DownloadError, match="lies outside of its folder"):
        get("esc-50", tmp_path / "deep" / "corpus", quiet)
    assert not list(tmp_path.rglob("evil*"))


def test_the_command_prints_what_to_cite_and_the_study_for_it(served, tmp_path, capsys):
    archives, places = PUBLISHED["esc-50"]
    served("esc-50", {archive: packed(files) for archive, files in archives.items()})
    assert recordings_commands.get("esc-50", tmp_path / "corpus") == 0
    printed = capsys.readouterr()
    assert (
        "Licence: CC BY-NC 3.0" in printed.err and "Cite: Piczak 2015" in printed.err and "about 0.6 GB" in printed.err
    )
    assert "its study is studies/esc50-8k.toml" in printed.out
    assert recordings(tmp_path / "corpus") == places
    with pytest.raises(UsageError, match="esc-50 is complete there, expected a new folder"):
        recordings_commands.get("esc-50", tmp_path / "corpus")


@pytest.mark.parametrize(("name", "size"), [("voicebank-demand", "about 5.3 GB"), ("ms-snsd", "unknown size")])
def test_more_than_a_gigabyte_or_an_unknown_size_needs_confirmation(tmp_path, name, size):
    with pytest.raises(UsageError, match=f"{name}: {size}, expected --yes for more than 1 GB"):
        recordings_commands.get(name, tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()


@pytest.mark.parametrize("name", CORPORA)
def test_every_corpus_has_a_study_that_fits_its_folders(name):
    corpus = tomllib.loads((ROOT / "studies" / CORPORA[name].study).read_text())["corpus"]
    folders = {place.split("/")[0] for place in PUBLISHED[name][1]}
    assert folders <= {corpus.get("clean", "speech"), corpus.get("noise", "noise"), corpus.get("noisy", "")}


def test_two_downloads_into_one_folder_never_mix(served, tmp_path):
    archives, places = PUBLISHED["esc-50"]
    served("esc-50", {archive: packed(files) for archive, files in archives.items()})
    (tmp_path / ".downloads").mkdir()
    with (
        locks.hold(tmp_path / ".downloads" / "lock", 0),
        pytest.raises(LockError, match=rf"^{tmp_path}/\.downloads/lock: locked by process \d+ .*, expected it free"),
    ):
        get("esc-50", tmp_path, quiet)
    assert recordings(tmp_path) == set()
    get("esc-50", tmp_path, quiet)
    assert recordings(tmp_path) == places

"""Downloads arrive whole or not at all, from a server that breaks off and lies; archives stay in their folder."""

from __future__ import annotations

import hashlib
import io
import shutil
import stat
import tarfile
import threading
import zipfile
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from quell.datasets import download
from quell.datasets.download import fetch, unpack
from quell.errors import DownloadError

CONTENT = np.random.default_rng(0).bytes(300_000)
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


class Server:
    """An HTTP server on 127.0.0.1 with one file, and with whims.

    Attributes:
        breaks: after so many bytes each connection ends.
        ranges: whether it sends what is asked for, or always all.
        says: a length that is not true.
        status: answered instead of the file, by the first `refusals` requests.
        asked: the Range of each request.
    """

    def __init__(self, content=CONTENT):
        self.content = content
        self.breaks, self.ranges, self.says, self.status, self.refusals = None, True, None, None, 10**9
        self.asked = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/file"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def answer(self, handler):
        asked = handler.headers.get("Range")
        self.asked.append(asked)
        if self.status is not None and len(self.asked) <= self.refusals:
            handler.send_error(self.status)
            return
        begin = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.ranges else 0
        if begin >= len(self.content):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(self.content)}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        handler.send_response(206 if begin else 200)
        handler.send_header("Content-Length", str(self.says or len(self.content) - begin))
        if begin:
            handler.send_header("Content-Range", f"bytes {begin}-{len(self.content) - 1}/{len(self.content)}")
        handler.end_headers()
        part = self.content[begin:]
        handler.wfile.write(part[: self.breaks] if self.breaks else part)
        handler.close_connection = True

    def close(self):
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "PAUSE_S", 0.001)
    monkeypatch.setattr(download, "TRIES", 3)
    server = Server()
    yield server
    server.close()


@pytest.mark.parametrize("checksum", [None, MD5, SHA256])
def test_a_file_is_downloaded_whole_and_only_once(server, tmp_path, checksum):
    path, seen = tmp_path / "new" / "file", []
    for _ in range(2):
        fetch(server.url, path, checksum=checksum, progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert server.asked == [None]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [left.name for left in path.parent.iterdir()] == ["file"]


def test_after_a_broken_connection_the_rest_is_requested(server, tmp_path):
    server.breaks = 70_000
    fetch(server.url, tmp_path / "file", checksum=SHA256)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=70000-", "bytes=140000-", "bytes=210000-", "bytes=280000-"]


def test_an_interrupted_download_is_resumed_by_another_run(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT[:123_456])
    fetch(server.url, tmp_path / "file", checksum=SHA256)
    assert server.asked == ["bytes=123456-"]
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_complete_partial_file_is_used(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    fetch(server.url, tmp_path / "file", checksum=SHA256)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_partial_file_longer_than_the_servers_is_downloaded_again(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT + b"more")
    fetch(server.url, tmp_path / "file", checksum=SHA256)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_server_without_ranges_sends_the_whole_file_again(server, tmp_path):
    server.ranges = False
    (tmp_path / "file.part").write_bytes(b"another file" * 1000)
    fetch(server.url, tmp_path / "file", checksum=SHA256)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_server_that_announces_more_than_it_sends_is_asked_for_the_rest(server, tmp_path):
    server.says = len(CONTENT) + 1000
    fetch(server.url, tmp_path / "file", checksum=SHA256)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={len(CONTENT)}-"]


def test_a_server_that_announces_less_is_found_by_the_checksum(server, tmp_path):
    server.says = 1000
    with pytest.raises(DownloadError, match=r"sha256 [0-9a-f]+, expected [0-9a-f]+; try again"):
        fetch(server.url, tmp_path / "file", checksum=SHA256)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_the_published_one_is_removed(server, tmp_path):
    server.content = CONTENT[::-1]
    with pytest.raises(DownloadError, match=r"md5 .*, expected"):
        fetch(server.url, tmp_path / "file", checksum=MD5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", [404, 403, 410])
def test_a_refusal_is_final(server, tmp_path, status):
    server.status = status
    with pytest.raises(DownloadError, match=rf"^{server.url}: HTTP {status} .*, expected the file; check the address"):
        fetch(server.url, tmp_path / "file")
    assert len(server.asked) == 1


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.status, server.refusals = 503, 1
    fetch(server.url, tmp_path / "file", checksum=SHA256)
    assert len(server.asked) == 2


def test_an_unreachable_server_is_reported(server, tmp_path):
    server.close()
    with pytest.raises(DownloadError, match="refused, expected the whole file; the same command resumes the download"):
        fetch(server.url, tmp_path / "file")
    server.thread.join()


def test_a_full_disk_is_reported_before_the_download(server, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**9, 10**9, 1000)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(
        DownloadError, match=r"GB free, expected 0\.0 GB for the download; free the disk or choose another folder"
    ):
        fetch(server.url, tmp_path / "file")


def zipped(path, files, mode=None):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            if mode is not None:
                info.external_attr = mode << 16
            archive.writestr(info, content)
    return path


def tarred(path, files, kind=tarfile.REGTYPE):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(content) if kind == tarfile.REGTYPE else 0, "/etc/passwd"
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_an_archive_is_unpacked_unchanged(tmp_path, pack):
    files = {"a/b/c.wav": b"sound", "a/d.txt": b"", "e": b"x" * 10}
    seen = []
    unpack(pack(tmp_path / "archive", files), tmp_path / "out", lambda done, total: seen.append((done, total)))
    found = {path.relative_to(tmp_path / "out").as_posix(): path for path in (tmp_path / "out").rglob("*")}
    assert {name: path.read_bytes() for name, path in found.items() if path.is_file()} == files
    assert seen[-1] == (15, 15)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "out"]


OUTSIDE = ["../evil", "a/../../evil", "/tmp/evil", "..\\evil", "C:evil"]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_a_path_out_of_the_folder_refuses_the_whole_archive(tmp_path, pack, name):
    archive = pack(tmp_path / "archive", {"fine.wav": b"sound", name: b"evil"})
    with pytest.raises(DownloadError, match="lies outside of its folder, expected paths inside; do not use it"):
        unpack(archive, tmp_path / "deep" / "out")
    assert not (tmp_path / "deep" / "out").exists()
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_a_link_or_device_refuses_the_whole_archive(tmp_path, kind):
    with pytest.raises(DownloadError, match="'link' is no file, expected files and folders"):
        unpack(tarred(tmp_path / "archive", {"link": b""}, kind), tmp_path / "out")
    with pytest.raises(DownloadError, match="'link' is no file, expected files and folders"):
        unpack(zipped(tmp_path / "archive", {"link": b"/etc/passwd"}, stat.S_IFLNK | 0o777), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


def test_an_archive_made_to_fill_the_disk_is_refused(tmp_path):
    path = tmp_path / "archive"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", b"\0" * (300 << 20))
    with pytest.raises(DownloadError, match=r"1 files of 0.3 GB in 0.3 MB, expected recordings; do not use it"):
        unpack(path, tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\3\4 broken", CONTENT])
def test_a_file_that_is_no_archive_is_reported(tmp_path, content):
    path = tmp_path / "archive"
    path.write_bytes(content)
    with pytest.raises(DownloadError, match=r"archive: .*, expected a zip or tar archive; remove it and try again"):
        unpack(path, tmp_path / "out")
    assert [left.name for left in tmp_path.iterdir()] == ["archive"]


def test_an_encrypted_archive_is_refused_as_a_whole(tmp_path):
    path = zipped(tmp_path / "archive", {"fine.wav": b"sound", "secret.wav": b"sound"})
    content = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # beside the file, and in the list of all
        content[content.rindex(signature) + flags] |= 1
    path.write_bytes(content)
    needed = "expected files without a password; unpack it yourself"
    with pytest.raises(DownloadError, match=rf"archive: 'secret\.wav' is encrypted, {needed}$"):
        unpack(path, tmp_path / "out")
    assert [left.name for left in tmp_path.iterdir()] == ["archive"]


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_a_damaged_archive_is_refused_in_one_line_or_unpacked_unchanged(tmp_path, pack):
    files = {"a/b.wav": CONTENT[:1000], "c.wav": CONTENT[1000:3000]}
    whole = pack(tmp_path / "archive", files).read_bytes()
    refused = 0
    for place in range(0, len(whole), 17):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        (tmp_path / "archive").write_bytes(damaged)
        try:
            unpack(tmp_path / "archive", tmp_path / "out")
        except DownloadError as error:
            refused += 1
            assert str(error).startswith(f"{tmp_path / 'archive'}: ") and "\n" not in str(error)
            assert not (tmp_path / "out").exists()
        else:
            found = {path.relative_to(tmp_path / "out").as_posix(): path for path in (tmp_path / "out").rglob("*")}
            assert {name: path.read_bytes() for name, path in found.items() if path.is_file()} == files
            shutil.rmtree(tmp_path / "out")
    assert refused > len(whole) / 17 / 2


def test_a_damaged_header_amid_an_archive_is_not_its_end(tmp_path):
    path = tmp_path / "archive"
    with tarfile.open(path, "w") as archive:
        for name in ("a.wav", "b.wav"):
            archive.addfile(tarfile.TarInfo(name))
    content = bytearray(path.read_bytes())
    content[512 + 148] ^= 1  # in the check sum of the second header
    path.write_bytes(content)
    with pytest.raises(DownloadError, match="bad header after 512 bytes, expected a zip or tar archive"):
        unpack(path, tmp_path / "out")


def test_a_truncated_archive_is_reported_and_nothing_is_left(tmp_path):
    path = tarred(tmp_path / "archive", {"a.wav": CONTENT})
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(DownloadError, match="expected a zip or tar archive"):
        unpack(path, tmp_path / "out")
    assert [left.name for left in tmp_path.iterdir()] == ["archive"]

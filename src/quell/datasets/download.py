"""Resumable downloads with checksums, and safe unpacking of zip and tar archives."""

import errno
import hashlib
import http.client
import shutil
import stat
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

from quell.atomic import new_folder
from quell.errors import DownloadError
from quell.progress import Progress, ignore

BLOCK = 1 << 20  # bytes
TIMEOUT_S = 30.0
TRIES = 8  # in a row without a new byte
FIRST_TRIES = 2  # before the first byte
PAUSE_S = 2.0  # before the second try, doubled before each later one
MOST_FILES = 1_000_000  # of an archive
OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG}
ENCRYPTED = 1  # bit of the flags of a file in a zip archive
MOST_TIMES = 200  # size of the contents over that of the archive; with more it is made to fill the disk


def fetch(url: str, path: Path, checksum: str | None = None, progress: Progress = ignore) -> None:
    """Downloads a file to `path`, which appears only when complete; resumes an interrupted download.

    A partial download is beside it as `<name>.part`.

    Args:
        checksum: as published, "md5:<hexadecimal digits>" or "sha256:...".

    Raises:
        DownloadError: the server does not respond, the file is not the published one, or the disk is full.
    """
    if path.exists():
        return
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _fill(url, part, progress)
        if checksum is not None:
            _check(url, part, checksum)
        part.replace(path)
    except OSError as error:
        needed = "expected to write there; choose another folder, or free the disk"
        raise DownloadError(f"{path}: {error.strerror or error}, {needed}") from error


def _fill(url: str, part: Path, progress: Progress) -> None:
    """Appends to the partial download until it is complete, over several connections if necessary."""
    tries, most = 0, FIRST_TRIES
    while True:
        before = _size(part)
        try:
            total = _append(url, part, progress)
            if total is None or _size(part) >= total:
                return
            reason = f"broke off after {_size(part)} of {total} bytes"
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            reason = " ".join(str(getattr(error, "reason", error) or type(error).__name__).split())
        if _size(part) > before:
            tries, most = 0, TRIES
            continue
        tries += 1
        if tries >= most:
            raise DownloadError(f"{url}: {reason}, expected the whole file; the same command resumes the download")
        time.sleep(PAUSE_S * 2 ** (tries - 1))


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _append(url: str, part: Path, progress: Progress) -> int | None:
    """Downloads over one connection. Returns the bytes of the whole file, None if unknown.

    Raises:
        DownloadError: another try is useless, as the server's response is final or the disk is full.
    """
    done = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                total = _total(error.headers.get("Content-Range"))
                if total == done:
                    return total
                part.unlink()  # it is of another file
                raise ConnectionError(f"{done} bytes downloaded, the server has {total}") from None
            if error.code < 500 and error.code not in (408, 429):
                found = f"HTTP {error.code} {error.reason}"
                raise DownloadError(f"{url}: {found}, expected the file; check the address") from None
            raise
    with response:
        if done and response.status != http.client.PARTIAL_CONTENT:
            done = 0  # the server sends the whole file
        total = _total(response.headers.get("Content-Range"))
        length = response.headers.get("Content-Length")
        if total is None and length is not None:
            total = done + int(length)
        _refuse_full(part.parent, (total or 0) - done, "for the download")
        with part.open("r+b" if done else "wb") as file:
            file.seek(done)
            while block := response.read(BLOCK):
                file.write(block)
                done += len(block)
                progress(done, total or done)
    return total


def _total(content_range: str | None) -> int | None:
    """The total of a Content-Range header: 10 of `bytes 5-9/10`."""
    total = (content_range or "").rpartition("/")[2]
    return int(total) if total.isdigit() else None


def _refuse_full(folder: Path, needed: int, purpose: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        found = f"{free / 1e9:.1f} GB free, expected {needed / 1e9:.1f} GB {purpose}"
        raise DownloadError(f"{folder}: {found}; free the disk or choose another folder")


def _check(url: str, part: Path, checksum: str) -> None:
    """Raises DownloadError and removes the file when it is not the published one."""
    kind, _, expected = checksum.partition(":")
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, kind).hexdigest()
    if digest != expected:
        part.unlink()
        raise DownloadError(f"{url}: {kind} {digest}, expected {expected}; try again, else the file was changed there")


def unpack(archive: Path, folder: Path, progress: Progress = ignore) -> None:
    """Unpacks a zip or tar archive into a new folder, which appears only when complete.

    An archive with a path that leads out of the folder, a link, a device or an encrypted file is refused as a whole.

    Raises:
        DownloadError: the archive is none, is damaged or encrypted, or would write elsewhere or fill the disk.
    """
    if folder.exists():
        return
    try:
        with new_folder(folder) as partial_folder, _opened(archive) as members:
            _extract(archive, members, partial_folder, progress)
    except DownloadError:
        raise
    except Exception as error:  # zipfile and tarfile raise errors of any type on damaged bytes
        if isinstance(error, OSError) and error.errno in OF_THE_DISK:
            raise DownloadError(f"{folder}: {error.strerror}, expected space for it; free the disk") from error
        reason = str(error).splitlines()[0].rstrip(":") if str(error) else "cut off"
        raise DownloadError(f"{archive}: {reason}, expected a zip or tar archive; remove it and try again") from error


class _Member(NamedTuple):
    """A file or folder of an archive."""

    name: str
    size: int  # bytes
    plain: bool  # neither link nor device
    encrypted: bool
    extract: Callable[[Path], object]  # writes it below a folder


@contextmanager
def _opened(archive: Path) -> Iterator[list[_Member]]:
    with archive.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    if is_zip:
        with zipfile.ZipFile(archive) as zipped:
            kinds = (0, stat.S_IFREG, stat.S_IFDIR)
            yield [
                _Member(
                    i.filename,
                    i.file_size,
                    stat.S_IFMT(i.external_attr >> 16) in kinds,
                    bool(i.flag_bits & ENCRYPTED),
                    partial(zipped.extract, i),
                )
                for i in zipped.infolist()
            ]
    else:
        with tarfile.open(archive) as tarred:
            # Python has the filter from 3.11.4 on. It is a second guard: `_extract` refuses what it would, and more.
            tarred.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
            extract = partial(tarred.extract, set_attrs=False)
            members = [_Member(i.name, i.size, i.isfile() or i.isdir(), False, partial(extract, i)) for i in tarred]
            _check_end(tarred)
            yield members


def _check_end(tarred: tarfile.TarFile) -> None:
    """Raises tarfile.ReadError where members end at a damaged header, which tarfile takes for the archive's end."""
    assert tarred.fileobj is not None
    tarred.fileobj.seek(tarred.offset)
    while block := tarred.fileobj.read(BLOCK):  # to the end, which also compares the checksum of gzip
        if block.strip(b"\0"):
            raise tarfile.ReadError(f"bad header after {tarred.offset} bytes")


def _extract(archive: Path, members: list[_Member], folder: Path, progress: Progress) -> None:
    total = sum(member.size for member in members)
    if len(members) > MOST_FILES or total > MOST_TIMES * max(archive.stat().st_size, BLOCK):
        found = f"{len(members)} files of {total / 1e9:.1f} GB in {archive.stat().st_size / 1e6:.1f} MB"
        raise DownloadError(f"{archive}: {found}, expected recordings; do not use it")
    _refuse_full(folder.parent, total, f"to unpack {archive.name}")
    for member in members:
        _refuse(archive, member)
    done = 0
    for member in members:
        member.extract(folder)
        done += member.size
        progress(done, total)


def _refuse(archive: Path, member: _Member) -> None:
    """Raises DownloadError when a member is encrypted, a link or device, or its path leads out of the folder."""
    name = member.name
    if member.encrypted:
        raise DownloadError(f"{archive}: {name!r} is encrypted, expected files without a password; unpack it yourself")
    if not member.plain:
        raise DownloadError(f"{archive}: {name!r} is no file, expected files and folders; do not use it")
    path = PureWindowsPath(name)  # takes both kinds of slashes, and drives
    if path.anchor or ".." in path.parts or "\0" in name or not path.parts:
        raise DownloadError(f"{archive}: {name!r} lies outside of its folder, expected paths inside; do not use it")

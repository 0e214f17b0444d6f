"""Check sums in files of ours: damaged bytes are noticed before they are used.

torch, ONNX Runtime and JSON read a file with a flipped bit without a word (torch 2.13, onnxruntime 1.31). A sealed file
ends with the CRC-32 of all bytes before it, and stays a file of its format: a zip archive (weights, checkpoints,
`.pt`, `.pt2`, `.npz`) has it in its comment, an ONNX file in its metadata, JSON in its last key.

A CRC-32 finds one or two flipped bits and bursts of up to 32 for certain, other damage but for one in 4 billion cases.
"""

import json
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

MARK = b"quell-crc32"
DIGITS = 8  # hexadecimal
BLOCK = 1 << 20  # bytes
# zip: the first bytes, and the record before the comment, with its bytes.
ARCHIVE, ARCHIVE_END, END_BYTES = b"PK\x03\x04", b"PK\x05\x06", 22
LONGEST_END = 42  # bytes: that record with our comment
MANY = 0xFFFF  # members, whose number is elsewhere


class _Form(NamedTuple):
    """What stands before and behind the digits at the end of a file."""

    before: bytes
    behind: bytes = b""


_ZIP = _Form(MARK + b":")
# An entry of ModelProto.metadata_props (field 14): its length, then key and value with theirs.
_ONNX = _Form(b"r\x17\n\x0b" + MARK + b"\x12\x08")
_JSON = _Form(b', "' + MARK + b'": "', b'"}')


class DamagedFileError(Exception):
    """The bytes of a file are not those that were written."""


def seal(path: Path) -> None:
    """Adds its check sum to a zip archive without a comment, or to an ONNX file."""
    with path.open("r+b") as file:
        form = _ZIP if file.read(len(ARCHIVE)) == ARCHIVE else _ONNX
        if form is _ZIP:
            file.seek(-2, os.SEEK_END)
            file.write((len(form.before) + DIGITS).to_bytes(2, "little"))  # the length of the comment
        size = file.seek(0, os.SEEK_END) + file.write(form.before)
        digits = _crc32(file, size)
        file.seek(size)
        file.write(digits)


def sealed_json(content: dict[str, Any]) -> str:
    """The text of an object with at least one key, for `read_json`."""
    covered = json.dumps(content)[:-1].encode() + _JSON.before
    return (covered + b"%08x" % zlib.crc32(covered) + _JSON.behind).decode()


def read_json(path: Path) -> dict[str, Any]:
    """An object that `sealed_json` wrote, or one without a check sum.

    Raises:
        DamagedFileError: it is another than was written.
        OSError, ValueError: it cannot be read, or is not JSON.
    """
    check(path)
    content: dict[str, Any] = json.loads(path.read_text())
    content.pop(MARK.decode(), None)
    return content


def check(path: Path) -> None:
    """Raises DamagedFileError for a file that is not as it was written, as far as it holds check sums.

    Those are its seal or, in an archive without one, the sums of its members, which leave out its headers and padding.
    A file of another format, and an ONNX file of another program, have none.
    """
    with path.open("rb") as file:
        check_stream(file)


def check_stream(file: BinaryIO) -> None:
    """As `check`, for a file that is open."""
    first, size = file.read(len(ARCHIVE)), file.seek(0, os.SEEK_END)
    file.seek(max(0, size - LONGEST_END))
    end = file.read()
    for form in (_ZIP, _ONNX, _JSON):
        own = end[-len(form.before) - DIGITS - len(form.behind) :]
        if _resembles(own, form.before):
            if own != form.before + _crc32(file, size - DIGITS - len(form.behind)) + form.behind:
                raise DamagedFileError("another check sum")
            return
    if first == ARCHIVE or ARCHIVE_END in end:
        _check_archive(file, end)


def is_intact(path: Path) -> bool:
    """Whether `check` finds nothing."""
    try:
        check(path)
    except DamagedFileError:
        return False
    return True


def _resembles(end: bytes, mark: bytes) -> bool:
    """Whether a file ends with a mark, also with a damaged one, of which most bytes are left."""
    return 2 * sum(found == wanted for found, wanted in zip(end, mark, strict=False)) > len(mark)


def _crc32(file: BinaryIO, size: int) -> bytes:
    """Of the first `size` bytes, as digits."""
    file.seek(0)
    found = 0
    while block := file.read(min(BLOCK, size)):
        found = zlib.crc32(block, found)
        size -= len(block)
    return b"%08x" % found


def _check_archive(file: BinaryIO, end: bytes) -> None:
    """Checks an archive without a seal by the sums of its members, which torch ignores."""
    record = end[end.rfind(ARCHIVE_END) :]
    comment = int.from_bytes(record[20:22], "little")
    if len(record) >= END_BYTES and (END_BYTES + comment != len(record) or comment == len(_ZIP.before) + DIGITS):
        raise DamagedFileError("its comment is cut off, or is a seal no more")
    try:
        with zipfile.ZipFile(file) as archive:
            damaged, members = archive.testzip(), len(archive.namelist())
    except Exception as error:  # zipfile raises errors of many types on damaged headers
        raise DamagedFileError(str(error)) from error
    if damaged is not None or int.from_bytes(record[10:12], "little") not in (members, MANY):
        raise DamagedFileError(damaged or "members are missing")

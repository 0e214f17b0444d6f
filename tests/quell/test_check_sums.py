"""A sealed file is of the same format as before, and a changed bit or a cut end of it is noticed."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from quell.check_sums import DamagedFileError, check, check_stream, is_intact, read_json, seal, sealed_json

CONTENT = {"name": "a", "sizes": [1, 2.5]}


def arrays() -> bytes:
    file = io.BytesIO()
    np.savez(file, values=np.arange(9.0))
    return file.getvalue()


def written(kind: str, path: Path) -> bytes:
    """A small file with its check sum."""
    if kind == "json":
        path.write_text(sealed_json(CONTENT))
    else:
        path.write_bytes(arrays() if kind == "zip" else b"\x08\x0a\x12\x05torch")  # fields 1 and 2 of an ONNX model
        seal(path)
    return path.read_bytes()


@pytest.fixture(params=["zip", "onnx", "json"])
def sealed(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, bytes]:
    path = tmp_path / f"file.{request.param}"
    return path, written(request.param, path)


def test_a_sealed_file_is_intact(sealed: tuple[Path, bytes]) -> None:
    path, _ = sealed
    check(path)
    assert is_intact(path)


def test_every_flipped_bit_of_a_sealed_file_is_noticed(sealed: tuple[Path, bytes]) -> None:
    _, content = sealed
    assert [bit for bit in range(8 * len(content)) if not is_noticed(flipped(content, bit))] == []


def is_noticed(content: bytes) -> bool:
    try:
        check_stream(io.BytesIO(content))
    except DamagedFileError:
        return True
    return False


def test_every_cut_of_a_sealed_archive_or_object_is_noticed(tmp_path: Path) -> None:
    archive, text = written("zip", tmp_path / "file.npz"), written("json", tmp_path / "file.json")
    assert [length for length in range(4, len(archive)) if not is_noticed(archive[:length])] == []
    for length in range(len(text)):
        with pytest.raises(ValueError, match="line 1"):
            json.loads(text[:length])


@pytest.mark.parametrize("damage", ["100 bits", "zeros inside", "zeros at the end", "zeros alone"])
def test_larger_damage_of_a_sealed_archive_is_noticed_or_leaves_no_archive(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "file.npz"
    content = bytearray(written("zip", path))
    size, random_bits = len(content), random.Random(0)
    if damage == "100 bits":
        for bit in random_bits.sample(range(8 * size), 100):
            content[bit // 8] ^= 1 << bit % 8
    elif damage == "zeros alone":
        content = bytearray(size)
    else:
        begin = size // 2 if damage == "zeros inside" else size - 40
        content[begin : begin + 40] = bytes(40)
    path.write_bytes(content)
    assert not is_intact(path) or not zipfile.is_zipfile(path)


def test_zeros_at_the_end_of_a_sealed_archive_are_noticed_wherever_they_begin(tmp_path: Path) -> None:
    content = written("zip", tmp_path / "file.npz")
    taken = [n for n in range(4, len(content)) if not is_noticed(content[:n] + bytes(len(content) - n))]
    assert taken == []


def test_a_sealed_archive_is_read_as_before(tmp_path: Path) -> None:
    path = tmp_path / "file.npz"
    path.write_bytes(arrays())
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    seal(path)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == names and archive.testzip() is None
    with np.load(path) as loaded:
        np.testing.assert_array_equal(loaded["values"], np.arange(9.0))


def test_torch_reads_a_sealed_file_as_before(tmp_path: Path) -> None:
    path, weights = tmp_path / "file.weights", {"a": torch.arange(5.0), "b": [1, "c"]}
    torch.save(weights, path)
    seal(path)
    loaded = torch.load(path, weights_only=True)
    assert torch.equal(loaded["a"], weights["a"]) and loaded["b"] == weights["b"]


@pytest.mark.parametrize(
    "make", [lambda path: torch.save(torch.arange(50.0), path), lambda path: np.savez(path, np.ones(9))]
)
def test_a_flipped_bit_of_an_archive_without_a_seal_is_noticed_or_changes_nothing(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "file.npz"
    make(path)
    content = path.read_bytes()
    before = members(content)
    taken = [bit for bit in range(0, 8 * len(content), 5) if not is_noticed(flipped(content, bit))]
    assert 0 < len(taken) < len(content)  # some in its headers and padding
    for bit in taken:
        assert members(flipped(content, bit)) == before, f"bit {bit}"


def members(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize("content", [b"", b"a", b"text\n" * 20, b"\x08\x0a\x12\x05torch"])
def test_a_file_without_check_sums_has_nothing_to_notice(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    check(path)


def test_an_object_is_read_as_it_was_written_with_and_without_a_check_sum(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    for text in (sealed_json(CONTENT), json.dumps(CONTENT)):
        path.write_text(text)
        assert read_json(path) == CONTENT


def test_a_damaged_object_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(sealed_json(CONTENT).replace('"a"', '"b"'))
    with pytest.raises(DamagedFileError, match="another check sum"):
        read_json(path)


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)

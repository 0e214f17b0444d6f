"""A damaged store is never read: it is noticed and built again, out of what is intact in it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sounds import tone, write

from quell.check_sums import sealed_json
from quell.corpus import parallel_decoding
from quell.corpus import store as store_module
from quell.corpus.decoding import decode
from quell.corpus.memory_map import INDEX, Corpus, open_store
from quell.corpus.recordings import CorpusConfig
from quell.corpus.splits import SPLITS
from quell.corpus.store import prepare
from quell.errors import CorpusError

Damage = Callable[[Path], None]


def bits(count: int, seed: int = 0) -> Damage:
    def flip(file: Path) -> None:
        content = bytearray(file.read_bytes())
        for bit in random.Random(seed).sample(range(8 * len(content)), count):
            content[bit // 8] ^= 1 << bit % 8
        file.write_bytes(content)

    return flip


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


def zeros(file: Path) -> None:
    """As after a power cut."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


DAMAGES = {"1 bit": bits(1), "3 bits": bits(3), "100 bits": bits(100), "cut": cut, "zeros": zeros, "gone": Path.unlink}


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the recordings that are decoded from now on."""
    names: list[str] = []

    def count(path, *arguments):
        names.append("/".join(path.parts[-2:]))
        return decode(path, *arguments)

    monkeypatch.setattr(parallel_decoding, "decode", count)
    return names


def samples(corpus: Corpus) -> dict[str, list[int]]:
    return {name: corpus.splits[name].samples.tolist() for name in SPLITS}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["train.int16", "test.int16", INDEX])
def test_a_store_that_is_damaged_in_any_way_is_built_again(
    config: CorpusConfig, store: Path, file: str, damage: str
) -> None:
    first = prepare(config, store)
    wanted = samples(first), {name: split.clips for name, split in first.splits.items()}
    DAMAGES[damage](first.folder / file)
    again = prepare(config, store, whole=SPLITS)
    assert (samples(again), {name: split.clips for name, split in again.splits.items()}) == wanted
    assert again.folder == first.folder
    assert not [path.name for path in store.iterdir() if "damaged" in path.name or path.name.startswith(".5")]


def test_only_the_damaged_recording_is_decoded_again(config: CorpusConfig, store: Path, decoded: list[str]) -> None:
    first = prepare(config, store)
    clip, other = first.splits["train"].of("clean")[0], first.splits["train"].of("noise")[0]
    with first.splits["train"].file.open("r+b") as file:
        for sample in (clip.offset, clip.offset + clip.length - 1):
            file.seek(2 * sample)
            file.write(b"ab")
    del decoded[:]
    again = prepare(config, store, whole=["train"])
    assert decoded == [clip.path] and other.path not in decoded
    assert samples(again) == samples(prepare(config, store.with_name("elsewhere")))


def test_damage_is_noticed_when_a_recording_is_read_and_the_next_command_builds_the_store_again(
    config: CorpusConfig, store: Path, decoded: list[str]
) -> None:
    first = prepare(config, store)
    wanted = samples(first)
    bits(1)(first.folder / "test.int16")
    opened = prepare(config, store)
    with pytest.raises(
        CorpusError,
        match=r"test\.int16: damaged samples of \S+\.wav, expected those that were decoded; tune the study again",
    ):
        opened.splits["test"].whole()
    with pytest.raises(CorpusError, match="no decoded corpus"):
        open_store(first.folder)
    del decoded[:]
    assert samples(prepare(config, store)) == wanted
    assert len(decoded) == 1


def test_a_store_that_cannot_be_written_is_not_read_where_it_is_damaged(
    config: CorpusConfig, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(config, store)
    bits(1)(first.folder / "train.int16")

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "replace", refuse)
    for _ in range(2):
        with pytest.raises(CorpusError, match="damaged samples"):
            open_store(first.folder).splits["train"].whole()


def test_damage_that_another_process_mended_does_not_take_its_store_out_of_use(
    config: CorpusConfig, store: Path
) -> None:
    first = prepare(config, store)
    file = first.folder / "train.int16"
    content = file.read_bytes()
    bits(1)(file)
    late = open_store(first.folder)
    file.unlink()  # its map stays as it is
    file.write_bytes(content)
    with pytest.raises(CorpusError, match="damaged samples"):
        late.splits["train"].whole()
    open_store(first.folder).splits["train"].whole()


def test_damaged_samples_are_not_copied_to_another_corpus(
    config: CorpusConfig, store: Path, decoded: list[str]
) -> None:
    first = prepare(config, store)
    bits(1)(first.folder / "train.int16")
    write(config.clean / "s0" / "new.wav", tone(frequency=777))
    del decoded[:]
    second = prepare(config, store)
    assert len(decoded) == 2 and "s0/new.wav" in decoded
    fresh = prepare(config, store.with_name("elsewhere"))
    assert samples(second) == samples(fresh)


def test_held_out_sets_of_a_damaged_store_are_kept(config: CorpusConfig, store: Path) -> None:
    first = prepare(config, store)
    (first.folder / "validation-0123456789ab.npz").write_bytes(b"mixtures")
    bits(1)(first.folder / "train.int16")
    again = prepare(config, store, whole=["train"])
    assert (again.folder / "validation-0123456789ab.npz").read_bytes() == b"mixtures"


def without_sums(folder: Path) -> None:
    """The index as an earlier Quell wrote it."""
    index = json.loads((folder / INDEX).read_text())
    del index["sums"], index["quell-crc32"]
    (folder / INDEX).write_text(json.dumps(index))


def test_a_store_of_an_earlier_quell_is_used_as_it_is_and_gets_check_sums(
    config: CorpusConfig, store: Path, decoded: list[str]
) -> None:
    first = prepare(config, store)
    wanted = samples(first)
    without_sums(first.folder)
    np.testing.assert_array_equal(open_store(first.folder).splits["train"].whole(), wanted["train"])
    del decoded[:]
    again = prepare(config, store)
    assert samples(again) == wanted and again.has_sums and decoded == []
    bits(1)(first.folder / "train.int16")
    assert samples(prepare(config, store, whole=["train"])) == wanted
    assert len(decoded) == 1


def test_an_earlier_quell_reads_the_index(config: CorpusConfig, store: Path) -> None:
    corpus = prepare(config, store)
    index = json.loads((corpus.folder / INDEX).read_text())
    assert set(index) == {"sample_rate", "decoder", "splits", "keys", "sums", "quell-crc32"}
    assert {key for split in index["splits"].values() for clip in split for key in clip} == {
        "kind", "path", "group", "category", "offset", "length",
    }  # fmt: skip


def test_an_index_of_another_form_is_a_damaged_store(config: CorpusConfig, store: Path) -> None:
    corpus = prepare(config, store)
    for content in ("{}", "[]", sealed_json({"splits": {"train": [{}]}, "sample_rate": 8_000})):
        (corpus.folder / INDEX).write_text(content)
        with pytest.raises(CorpusError, match="a damaged corpus, expected what was decoded; tune the study again"):
            open_store(corpus.folder)


def test_a_store_is_on_the_disk_before_it_has_its_name(
    config: CorpusConfig, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = store_module.sync

    def record(path: Path) -> None:
        synced.append(path.name)
        assert not (store / path.parent.name.split(".")[1]).exists()
        real(path)

    monkeypatch.setattr(store_module, "sync", record)
    prepare(config, store)
    assert synced == [*(f"{name}.int16" for name in SPLITS), INDEX]

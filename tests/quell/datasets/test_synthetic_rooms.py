"""Generated rooms decay as their names say, are the same for the same seed, and are generated once."""

from __future__ import annotations

import builtins
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import soundfile

from quell.datasets import synthetic_rooms
from quell.datasets.synthetic_rooms import DECAY_S, generate
from quell.errors import PackageError

RATE = 16_000
installed = pytest.mark.skipif(find_spec("pyroomacoustics") is None, reason="needs the extra rooms")


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("rooms"), 12, RATE, 0)


def decay_s(response):
    """Seconds to -60 dB, by the slope of the energy that is still to come between -5 and -25 dB (Schroeder 1965)."""
    left = np.cumsum(np.square(response, dtype=np.float64)[::-1])[::-1]
    level = 10 * np.log10(left / left[0] + 1e-12)
    begin, end = np.argmax(level < -5), np.argmax(level < -25)
    return 3 * (end - begin) / RATE


@installed
def test_rooms_decay_about_as_fast_as_their_names_say(rooms):
    asked, found = [], []
    for path in sorted(rooms.iterdir()):
        response, rate = soundfile.read(path)
        assert rate == RATE and np.abs(response).max() == pytest.approx(0.9, abs=1e-3)
        asked.append(float(path.stem.split("_")[1].removesuffix("s")))
        found.append(decay_s(response))
    assert len(asked) == 12 and min(asked) >= DECAY_S[0] and max(asked) <= DECAY_S[1] + 0.005
    assert max(asked) - min(asked) > 0.2
    # Sabine's formula holds for diffuse fields: small boxes are off by some ten per cent.
    assert np.corrcoef(asked, found)[0, 1] > 0.8
    assert np.median(np.array(found) / np.array(asked)) == pytest.approx(1.0, abs=0.35)


@installed
def test_the_same_seed_gives_the_same_rooms_and_another_others(rooms, tmp_path):
    again, other = generate(tmp_path, 12, RATE, 0), generate(tmp_path, 12, RATE, 1)
    first, second, third = (
        [path.read_bytes() for path in sorted(folder.iterdir())] for folder in (rooms, again, other)
    )
    assert first == second
    assert not set(first) & set(third)


@installed
def test_rooms_are_generated_once(rooms, monkeypatch):
    def refuse(*_):
        raise AssertionError("generated again")

    monkeypatch.setattr(synthetic_rooms, "_response", refuse)
    assert generate(rooms.parent, 12, RATE, 0) == rooms


@installed
def test_an_interrupted_generation_leaves_nothing(tmp_path, monkeypatch):
    seen = []

    def stop(done, count):
        seen.append(done)
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path, 5, RATE, 0, stop)
    assert seen == [1, 2] and list(tmp_path.iterdir()) == []


def test_without_the_extra_the_error_names_it(tmp_path, monkeypatch):
    real = builtins.__import__

    def refuse(name, *arguments):
        if name == "pyroomacoustics":
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.delitem(sys.modules, "pyroomacoustics", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(
        PackageError, match=r"generated_rooms: needs pyroomacoustics; pip install 'quell-denoiser\[rooms\]'"
    ):
        generate(tmp_path, 3, RATE, 0)

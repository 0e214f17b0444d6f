"""Raw samples are denoised as a file of them would be, and other bytes are refused."""

from __future__ import annotations

import io
import re
import tempfile

import numpy as np
import pytest
import soundfile

from quell import audio
from quell.audio import ENCODINGS, Raw, writer
from quell.errors import AudioError
from quell.inference.jobs import DenoiseOptions
from quell.inference.pipe import pipe
from quell.inference.waveform import denoise


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def noise(length, channels=1):
    return (0.1 * np.random.default_rng(0).standard_normal((length, channels))).astype(np.float32)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (44_100, 2)])
def test_samples_of_every_encoding_are_denoised_and_keep_it(tmp_path, scratch, loaded, encoding, rate, channels):
    raw = Raw(rate, channels, ENCODINGS[encoding])
    stored = audio.Format(rate, "RAW", raw.subtype, "LITTLE")
    writer.write(tmp_path / "a.bin", noise(70_001, channels), stored)
    content = (tmp_path / "a.bin").read_bytes()
    (tmp_path / "a.bin").unlink()
    out = io.BytesIO()
    pipe(io.BytesIO(content), out, loaded, raw, DenoiseOptions(wet=0.9))
    assert len(out.getvalue()) == len(content)
    settings = {"samplerate": rate, "channels": channels, "format": "RAW", "subtype": raw.subtype, "always_2d": True}
    before, after = (
        soundfile.read(io.BytesIO(part), dtype="float32", **settings)[0] for part in (content, out.getvalue())
    )
    np.testing.assert_allclose(after, denoise(before, rate, loaded, DenoiseOptions(wet=0.9)), atol=2**-14)  # 16 bits
    assert not list(scratch.iterdir())


def test_progress_counts_received_seconds_then_denoised_ones(loaded):
    passed = []
    content = noise(160_000).tobytes()
    pipe(io.BytesIO(content), io.BytesIO(), loaded, Raw(8_000, 1, "FLOAT"), progress=lambda *at: passed.append(at))
    coming, denoised = ([at[i] for at in passed if (at[0] == 0) == (i == 1)] for i in (1, 0))
    assert passed == sorted(passed) and passed[-1] == pytest.approx((20, 20))
    assert len(set(coming)) > 2 and len(set(denoised)) > 1
    assert {received for done, received in passed if done > 0} == {20}


@pytest.mark.parametrize(
    ("content", "channels", "found"),
    [
        (b"", 1, "0 bytes, expected a multiple of 2 (1 channels, PCM_16)"),
        (bytes(1_001), 1, "1001 bytes, expected a multiple of 2"),
        (bytes(1_000), 3, "1000 bytes, expected a multiple of 6 (3 channels, PCM_16)"),
        (bytes(600), 300, "300 channels at 8000 Hz, expected 1 to 256 channels"),
        (b"RIFX\0\0\0\0WAVEfmt ", 1, "a file that begins with RIFX, expected samples without a header"),
        (b"ID3\3\0\0\0\0\0\0\0\0", 1, "a file that begins with ID3, expected samples without a header"),
        (b"riff.\x91\xcf\x11\xa5\xd6\x28\xdb", 1, "a file that begins with riff, expected samples"),
        (b".snd\0\0\0\x18\0\0\0\0", 1, "a file that begins with .snd, expected samples without a header"),
        (b"RIFF\0\0\0\0WAVEfmt ", 1, "a file that begins with RIFF, expected samples without a header"),
        (b"fLaC\0\0\0\0", 1, "a file that begins with fLaC"),
    ],
)
def test_a_broken_last_sample_or_a_file_with_a_header_is_refused(scratch, loaded, content, channels, found):
    out = io.BytesIO()
    with pytest.raises(AudioError, match=re.escape(f"standard input: {found}")):
        pipe(io.BytesIO(content), out, loaded, Raw(8_000, channels, "PCM_16"))
    assert not out.getvalue() and not list(scratch.iterdir())


def test_samples_that_begin_like_a_container_are_samples(loaded):
    content = b"RIFF" + noise(100).tobytes()  # 4 bytes are chance
    out = io.BytesIO()
    pipe(io.BytesIO(content), out, loaded, Raw(8_000, 1, "PCM_16"))
    assert len(out.getvalue()) == len(content)


def test_nan_samples_are_refused(scratch, loaded):
    content = np.float32([0, np.nan]).tobytes()
    with pytest.raises(AudioError, match=r"^standard input: 1 samples are NaN or infinite"):
        pipe(io.BytesIO(content), io.BytesIO(), loaded, Raw(8_000, 1, "FLOAT"))


def test_a_full_folder_for_temporary_files_is_reported(loaded, monkeypatch):
    class Full(io.BytesIO):
        def read(self, *_):
            raise OSError(28, "No space left on device")

    with pytest.raises(AudioError, match=r"^standard input: No space left on device, expected space for it twice"):
        pipe(Full(), io.BytesIO(), loaded, Raw(8_000, 1, "PCM_16"))
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with pytest.raises(AudioError, match=r"^standard input: No such file or directory, expected space for it twice"):
        pipe(io.BytesIO(bytes(2)), io.BytesIO(), loaded, Raw(8_000, 1, "PCM_16"))


def test_a_broken_output_pipe_is_raised_to_the_caller(scratch, loaded):
    class Closed(io.BytesIO):
        def write(self, _):
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        pipe(io.BytesIO(noise(100).tobytes()), Closed(), loaded, Raw(8_000, 1, "FLOAT"))
    assert not list(scratch.iterdir())

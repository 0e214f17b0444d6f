"""A denoised file has the format of its source: for every format that can be written, at any rate and channels."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from quell import audio
from quell.audio import Format, writer
from quell.errors import AudioError
from quell.export import exporter
from quell.export.blocks import Blocks
from quell.export.exported_model import Model
from quell.inference.enhancement import enhance_file

COMMON = [
    ("wav", "WAV", "PCM_16"),
    ("wav", "WAV", "PCM_24"),
    ("wav", "WAV", "PCM_32"),
    ("wav", "WAV", "FLOAT"),
    ("flac", "FLAC", "PCM_16"),
    ("ogg", "OGG", "VORBIS"),
]
OTHERS = [
    ("wav", "WAV", "DOUBLE"),
    ("wav", "WAV", "PCM_U8"),
    ("wav", "WAV", "ULAW"),
    ("wav", "WAV", "ALAW"),
    ("wav", "WAV", "IMA_ADPCM"),
    ("wav", "WAV", "MS_ADPCM"),
    ("wav", "WAV", "GSM610"),
    ("wav", "WAVEX", "PCM_16"),
    ("wav", "WAVEX", "FLOAT"),
    ("wav", "RF64", "PCM_16"),
    ("rf64", "RF64", "PCM_24"),
    ("w64", "W64", "PCM_16"),
    ("aiff", "AIFF", "PCM_16"),
    ("aif", "AIFF", "PCM_24"),
    ("aifc", "AIFF", "FLOAT"),
    ("au", "AU", "PCM_16"),
    ("au", "AU", "ULAW"),
    ("caf", "CAF", "ALAC_16"),
    ("caf", "CAF", "FLOAT"),
    ("flac", "FLAC", "PCM_24"),
    ("sph", "NIST", "PCM_16"),
    ("mp3", "MP3", "MPEG_LAYER_III"),
    ("opus", "OGG", "OPUS"),
]


class Louder(Model):
    """A model whose output is 30 times its input."""

    def forward_block(self, noisy, level, state, lead, mark):
        return 30 * noisy, state


LOUDER = Louder(8_000, {}, Blocks(grid=8, margin=0, context=0, block=800, state_units=0))


def write(path, container, subtype, samples, rate) -> Path:
    soundfile.write(path, samples, rate, format=container, subtype=subtype)
    return path


def noise(length, channels=1):
    return 0.1 * np.random.default_rng(0).standard_normal((length, channels))


def names(kinds):
    return [f"{container}-{subtype}" for _, container, subtype in kinds]


@pytest.mark.parametrize(("suffix", "container", "subtype"), COMMON, ids=names(COMMON))
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
def test_common_formats_keep_rate_channels_length_and_sub_format(
    tmp_path, loaded, suffix, container, subtype, rate, stored
):
    for channels in (1, 2, 6):
        for length in (1, rate // 100, 2 * rate + 1 if channels == 2 else rate // 10):
            source = write(tmp_path / f"in.{suffix}", container, subtype, noise(length, channels), rate)
            enhance_file(source, tmp_path / f"out.{suffix}", loaded)
            assert stored(tmp_path / f"out.{suffix}") == stored(source)
            assert stored(source)[:3] == (rate, channels, length)


@pytest.mark.parametrize(("suffix", "container", "subtype"), OTHERS, ids=names(OTHERS))
def test_other_formats_keep_rate_channels_length_and_sub_format(tmp_path, loaded, suffix, container, subtype, stored):
    for channels in (1, 2):
        if (subtype, channels) == ("GSM610", 2):
            continue
        for length in (1, 80, 12_345):
            source = write(tmp_path / f"in.{suffix}", container, subtype, noise(length, channels), 8_000)
            enhance_file(source, tmp_path / f"out.{suffix}", loaded)
            assert stored(tmp_path / f"out.{suffix}") == stored(source)
            assert stored(source)[3:5] == (container, subtype)


@pytest.mark.parametrize("endian", ["LITTLE", "BIG"])
def test_byte_order_is_kept(tmp_path, loaded, endian, stored):
    for suffix, container in (("wav", "WAV"), ("aiff", "AIFF"), ("au", "AU"), ("caf", "CAF")):
        source, target = tmp_path / f"in.{suffix}", tmp_path / f"out.{suffix}"
        with soundfile.SoundFile(source, "w", 8_000, 1, "PCM_16", endian, container) as file:
            file.write(noise(100))
        enhance_file(source, target, loaded)
        assert target.read_bytes()[:4] == source.read_bytes()[:4]
        assert stored(target) == stored(source)


LIMITED = [kind for kind in COMMON + OTHERS if kind[2] not in ("FLOAT", "DOUBLE", "VORBIS", "OPUS", "MPEG_LAYER_III")]


@pytest.mark.parametrize(("suffix", "container", "subtype"), LIMITED, ids=names(LIMITED))
def test_samples_beyond_the_range_of_a_format_are_clipped_and_never_wrap(tmp_path, suffix, container, subtype):
    # µ-law at this level reads behind the end of a table in libsndfile 1.2.2, which ends the process.
    tone = 0.9 * np.sin(2 * np.pi * 200 / 8_000 * np.arange(4_000))
    source = write(tmp_path / f"in.{suffix}", container, subtype, tone, 8_000)
    report = enhance_file(source, tmp_path / f"out.{suffix}", LOUDER)
    assert report.peak > 20 and report.limited > 3_700
    found, before = audio.read(tmp_path / f"out.{suffix}")[0][:4_000], audio.read(source)[0][:4_000]
    loud = np.abs(before) > 0.5
    # GSM and ADPCM do not follow a square wave at once.
    assert (np.sign(found)[loud] == np.sign(before)[loud]).mean() > 0.95
    assert (np.abs(found)[loud] > 0.4).mean() > 0.95


@pytest.mark.parametrize(("suffix", "container", "subtype"), COMMON[-1:] + OTHERS[-2:])
def test_lossy_formats_survive_levels_that_would_end_their_encoders(tmp_path, suffix, container, subtype, stored):
    samples = np.full((9_000, 1), 1e6, np.float32)
    writer.write(tmp_path / f"a.{suffix}", samples, Format(8_000, container, subtype))
    assert stored(tmp_path / f"a.{suffix}")[:3] == (8_000, 1, 9_000)


def test_an_output_that_is_not_finite_is_refused(tmp_path):
    class Broken(Louder):
        def forward_block(self, noisy, level, state, lead, mark):
            return noisy / torch.zeros(1), state

    source = write(tmp_path / "a.wav", "WAV", "FLOAT", noise(1_000), 8_000)
    with pytest.raises(AudioError, match=r"a\.wav: denoised to NaN or infinity"):
        enhance_file(source, tmp_path / "b.wav", Broken(8_000, {}, LOUDER.blocks))
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


@pytest.mark.parametrize("level", [1e-44, 1e-30, 1e-6, 1e6, 1e9])
def test_recordings_of_any_finite_level_are_denoised(tmp_path, loaded, level):
    source = write(tmp_path / "a.wav", "WAV", "FLOAT", (level * noise(20_000)).astype(np.float32), 44_100)
    enhance_file(source, tmp_path / "b.wav", loaded)
    assert np.isfinite(soundfile.read(tmp_path / "b.wav")[0]).all()


@pytest.mark.parametrize(
    ("worst", "found"), [(np.nan, "1 samples are NaN"), (-np.inf, "1 samples are"), (3e38, "3e.38")]
)
def test_samples_that_are_not_finite_or_far_too_large_are_refused(tmp_path, loaded, worst, found):
    samples = noise(200_000).astype(np.float32)
    samples[170_000] = worst
    source = write(tmp_path / "a.wav", "WAV", "FLOAT", samples, 8_000)
    with pytest.raises(AudioError, match=rf"a\.wav: .*{found}.*, expected numbers"):
        enhance_file(source, tmp_path / "b.wav", loaded)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_a_recording_that_grows_while_it_is_read_is_refused(tmp_path):
    recording = audio.AudioFile(write(tmp_path / "a.wav", "WAV", "PCM_16", noise(1_000), 8_000))
    write(tmp_path / "a.wav", "WAV", "PCM_16", noise(2_000), 8_000)
    with pytest.raises(AudioError, match=r"a\.wav: changes while it is read"):
        next(recording.blocks())


@pytest.mark.parametrize(("suffix", "container", "subtype"), [COMMON[0], COMMON[3], *COMMON[-2:], *OTHERS[-2:]])
def test_a_full_disk_is_an_error_and_leaves_no_file(tmp_path, suffix, container, subtype):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = write(tmp_path / f"a.{suffix}", container, subtype, noise(60_000), 16_000)
    size = path.stat().st_size
    path.unlink()
    for room in (0, 100, 3 * size // 10, 9 * size // 10, size - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))  # as a full disk, but for the reason
        try:
            with pytest.raises(AudioError, match=rf"a\.{suffix}: .*, expected to write {container}/{subtype}"):
                writer.write(path, noise(60_000), Format(16_000, container, subtype))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert not list(tmp_path.iterdir())


def test_memory_does_not_grow_with_length(tmp_path, tiny_denoiser, stored):
    exporter.export(tiny_denoiser(), tmp_path / "model.pt", {})
    for minutes in (1, 4):
        soundfile.write(tmp_path / f"{minutes}.wav", noise(minutes * 60 * 8_000), 8_000)
    script = (
        "import resource, sys; from pathlib import Path\n"
        "import torch; torch.set_num_threads(1)\n"
        "from quell.export.exported_model import load\n"
        "from quell.inference.enhancement import enhance_file\n"
        "from quell.inference.jobs import DenoiseOptions\n"
        "folder = Path(sys.argv[1]); model = load(folder / 'model.pt')\n"
        "for minutes in (1, 4):\n"
        "    enhance_file(folder / f'{minutes}.wav', folder / f'{minutes}-out.wav', model, DenoiseOptions(wet=0.5))\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", script, str(tmp_path)]
    short, long = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert long - short < 6_000  # KiB; 3 minutes are 5.8 MB as float32
    assert stored(tmp_path / "4-out.wav") == stored(tmp_path / "4.wav")

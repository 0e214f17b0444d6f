"""A denoised file has the format and length of its input, and pieces give what the whole gives."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from quell import audio, config
from quell.errors import AudioError
from quell.export import exporter
from quell.export.blocks import Blocks
from quell.export.exported_model import Model, load
from quell.inference.enhancement import denoised, enhance_file
from quell.inference.jobs import DenoiseOptions
from quell.inference.waveform import denoise


class Identity(Model):
    """Answers what it is asked, in blocks of 0.1 s."""

    def forward_block(self, noisy, level, state, lead, mark):
        return noisy, state


IDENTITY = Identity(8_000, {}, Blocks(grid=8, margin=0, context=0, block=800, state_units=0))


FORMATS = [("wav", "PCM_16"), ("wav", "PCM_24"), ("wav", "FLOAT"), ("flac", "PCM_16"), ("flac", "PCM_24")]


@pytest.mark.parametrize(("suffix", "subtype"), [*FORMATS, ("ogg", "VORBIS")])
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
def test_rate_channels_length_and_format_are_kept(tmp_path, loaded, suffix, subtype, rate, write, stored):
    for channels in (1, 2, 6):
        for length in (1, rate // 10 + 1):
            samples = 0.1 * np.random.default_rng(1).standard_normal((length, channels))
            source = write(tmp_path / f"in.{suffix}", samples, rate, subtype)
            target = tmp_path / "new" / f"{channels}-{length}.{suffix}"
            enhance_file(source, target, loaded)
            assert stored(target) == stored(source)
            assert stored(target)[:3] == (rate, channels, length)


def test_a_file_at_the_models_rate_becomes_the_models_output(tmp_path, loaded, write):
    samples = np.random.default_rng(2).standard_normal((1_501, 2)).astype(np.float32)
    enhance_file(write(tmp_path / "a.wav", samples, subtype="FLOAT"), tmp_path / "b.wav", loaded)
    answers = np.stack([loaded(torch.from_numpy(samples[:, i].copy())).numpy() for i in (0, 1)], axis=1)
    np.testing.assert_allclose(audio.read(tmp_path / "b.wav")[0], answers, atol=1e-5)  # float32, another batch


def test_channels_are_denoised_independently(loaded):
    samples = np.random.default_rng(3).standard_normal((1_501, 6)).astype(np.float32)
    together = denoise(samples, 16_000, loaded)
    for i in range(6):
        np.testing.assert_allclose(denoise(samples[:, [i]], 16_000, loaded), together[:, [i]], atol=1e-5)  # as above


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
def test_resampling_to_the_models_rate_and_back_neither_delays_nor_colours(rate):
    samples = np.sin(2 * np.pi * 1_000 / rate * np.arange(rate)).astype(np.float32)[:, None]
    inner = slice(rate // 10, -rate // 10)  # soxr rings where the tone starts and stops
    assert np.abs(denoise(samples, rate, IDENTITY) - samples)[inner].max() < 1e-4  # -80 dB


def test_the_output_has_nothing_above_half_the_models_rate():
    samples = np.sin(2 * np.pi * 6_000 / 48_000 * np.arange(48_000)).astype(np.float32)[:, None]
    assert np.abs(denoise(samples, 48_000, IDENTITY))[4_800:-4_800].max() < 1e-4  # -80 dB


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100, 48_000])
def test_every_short_length_is_kept(rate):
    for shape in ((1,), (1, 1), (2,), (2, 2), (3, 2), (5, 2), (10, 2), (99, 2)):
        assert denoise(np.ones(shape, np.float32), rate, IDENTITY).shape == shape


def test_silence_stays_silence(tmp_path, loaded, write):
    enhance_file(write(tmp_path / "a.wav", np.zeros(900), 44_100), tmp_path / "b.wav", loaded)
    assert not audio.read(tmp_path / "b.wav")[0].any()


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (("a.wav", "PCM_16"), "b.flac", ("FLAC", "PCM_16")),
        (("a.wav", "FLOAT"), "b.flac", ("FLAC", "PCM_24")),
        (("a.wav", "PCM_U8"), "b.flac", ("FLAC", "PCM_16")),
        (("a.wav", "IMA_ADPCM"), "b.flac", ("FLAC", "PCM_16")),
        (("a.wav", "PCM_24"), "b.aif", ("AIFF", "PCM_24")),
        (("a.flac", "PCM_16"), "b.WAV", ("WAV", "PCM_16")),
        (("a.flac", "PCM_24"), "b.ogg", ("OGG", "VORBIS")),
        (("a.ogg", "VORBIS"), "b.wav", ("WAV", "PCM_16")),
        (("a.mp3", "MPEG_LAYER_III"), "b.wav", ("WAV", "PCM_16")),
        (("a.wav", "PCM_16"), "b.opus", ("OGG", "OPUS")),
        (("a.wav", "PCM_16"), "b.mp3", ("MP3", "MPEG_LAYER_III")),
    ],
)
def test_an_output_may_have_another_format(tmp_path, write, loaded, source, target, expected):
    source = write(tmp_path / source[0], subtype=source[1], samples=np.full(5_000, 0.1))
    enhance_file(source, tmp_path / target, loaded)
    info = soundfile.info(tmp_path / target)
    assert (info.format, info.subtype, info.samplerate) == (*expected, 8_000)
    assert len(audio.read(tmp_path / target)[0]) == len(audio.read(source)[0])


@pytest.mark.parametrize("name", ["b.txt", "b.raw", "b", "b.m4a", "b.mp2"])
def test_an_output_with_no_suffix_of_a_sound_file_is_refused(tmp_path, write, name):
    with pytest.raises(AudioError, match=re.escape(f"{tmp_path / name}: ends in '{Path(name).suffix}', expected .wav")):
        enhance_file(write(tmp_path / "a.wav"), tmp_path / name, IDENTITY)
    assert not (tmp_path / name).exists()


def test_what_cannot_be_written_alike_is_refused_with_a_way_out(tmp_path, loaded):
    # IMA ADPCM in blocks of 1024 bytes (2041 samples), as ffmpeg and recorders write it; libsndfile writes 256 (505).
    blocks = [struct.pack("<hBB", 0, 30, 0) + bytes(range(255)) * 4 for _ in range(8)]
    shape = struct.pack("<HHIIHHHH", 0x11, 1, 8_000, 4_013, 1_024, 4, 2, 2_041)
    data = b"".join(blocks)
    body = b"WAVEfmt " + struct.pack("<I", len(shape)) + shape + b"data" + struct.pack("<I", len(data)) + data
    source = tmp_path / "dictaphone.wav"
    source.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    with pytest.raises(AudioError, match=r"out\.wav: .*; choose another output, or a name that ends in \.flac"):
        enhance_file(source, tmp_path / "out.wav", loaded)
    enhance_file(source, tmp_path / "out.flac", loaded)
    assert soundfile.info(tmp_path / "out.flac").frames == 8 * 2_041


@pytest.mark.parametrize("settings", [{}, {"bottleneck": "forward", "bottleneck_units": 4}, {"bottleneck": "both"}])
@pytest.mark.parametrize("kind", ["torchscript", "onnx"])
def test_pieces_of_any_size_give_what_one_pass_gives(tiny_denoiser, tmp_path, settings, kind):
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    denoiser = tiny_denoiser(seed=3, **settings)
    exporter.export(denoiser, tmp_path / f"model{config.FORMATS[kind]}", {}, kind)
    model = load(tmp_path / f"model{config.FORMATS[kind]}")
    length = 2 * model.blocks.block + 2 * model.blocks.context + 321
    waveform = 0.1 * np.random.default_rng(4).standard_normal((length, 2)).astype(np.float32)
    waveform *= np.linspace(0.01, 1, length, dtype=np.float32)[:, None]
    with torch.inference_mode():
        whole = denoiser(torch.from_numpy(waveform.T.copy())).numpy().T
    for size in (997, 65_536, length):
        pieces = [waveform[start : start + size] for start in range(0, length, size)]
        found = np.concatenate(list(denoised(lambda pieces=pieces: iter(pieces), 8_000, model)))
        assert np.abs(found - whole).max() <= 1e-5


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_resampling_in_pieces_equals_resampling_the_whole(rate):
    samples = np.random.default_rng(5).standard_normal((rate + 77, 2)).astype(np.float32)
    down = audio.resample(samples, rate, 8_000)
    whole = audio.resample(down, 8_000, rate)[: len(samples)]
    pieces = [samples[start : start + 1_234] for start in range(0, len(samples), 1_234)]
    found = np.concatenate(list(denoised(lambda: iter(pieces), rate, IDENTITY)))
    assert found.shape == samples.shape
    assert np.abs(found[: len(whole)] - whole).max() <= 1e-5  # float32


@pytest.mark.parametrize("gain_db", [-40, -12, 12])
@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_the_output_follows_the_gain_of_the_input(loaded, gain_db, rate):
    samples = 0.1 * np.random.default_rng(6).standard_normal((rate // 2, 1)).astype(np.float32)
    gain = np.float32(10 ** (gain_db / 20))
    answer = denoise(samples, rate, loaded)
    # The level is divided by: float32 rounds in the last of 24 bits, and the network carries that on
    assert np.abs(denoise(gain * samples, rate, loaded) - gain * answer).max() <= 1e-5 * gain * np.abs(answer).max()


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_a_dc_offset_is_removed_and_changes_nothing_else(loaded, rate):
    samples = 0.1 * np.random.default_rng(7).standard_normal((rate, 1)).astype(np.float32)
    samples -= samples.mean()
    answer = denoise(samples, rate, loaded)
    assert np.abs(denoise(samples + np.float32(0.5), rate, loaded) - answer).max() < 1e-4  # -80 dB


def test_full_scale_square_waves_give_finite_output(loaded):
    samples = np.sign(np.sin(np.arange(8_000) / 20)).astype(np.float32)
    assert np.isfinite(denoise(samples, 8_000, loaded)).all()


@pytest.mark.parametrize("rate", [8_000, 48_000])
def test_wet_and_the_attenuation_limit_mix_the_input_back_in_step(loaded, rate):
    samples = 0.1 * np.random.default_rng(8).standard_normal((rate + 3, 2)).astype(np.float32)
    clean = denoise(samples, rate, loaded)
    for options, share in (
        (DenoiseOptions(wet=0.8), 0.8),
        (DenoiseOptions(wet=0), 0),
        (DenoiseOptions(attenuation_limit_db=20), 0.9),
        (DenoiseOptions(0.5, 20), 0.45),
    ):
        assert options.denoised == pytest.approx(share)
        found = denoise(samples, rate, loaded, options)
        np.testing.assert_allclose(found, share * clean + (1 - share) * samples, atol=1e-6)  # float32


def test_an_attenuation_limit_leaves_that_share_of_the_noise():
    class Silence(Identity):
        def forward_block(self, noisy, level, state, lead, mark):
            return torch.zeros_like(noisy), state

    samples = 0.1 * np.random.default_rng(9).standard_normal((8_000, 1)).astype(np.float32)
    mute = Silence(8_000, {}, IDENTITY.blocks)
    for limit_db in (0, 6, 18):
        found = denoise(samples, 8_000, mute, DenoiseOptions(attenuation_limit_db=limit_db))
        lowered_db = 20 * np.log10(np.sqrt(np.square(samples).mean() / np.square(found).mean()))
        assert lowered_db == pytest.approx(limit_db, abs=1e-3)  # float32


@pytest.mark.parametrize("settings", [{"wet": -0.1}, {"wet": 1.1}, {"wet": np.nan}, {"attenuation_limit_db": -1.0}])
def test_a_mix_out_of_range_is_refused(settings):
    with pytest.raises(ValueError, match="expected"):
        DenoiseOptions(**settings)


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_samples_beyond_full_scale_are_reported_and_limited_only_by_the_format(tmp_path, subtype, write):
    class Louder(Identity):
        def forward_block(self, noisy, level, state, lead, mark):
            return 2 * noisy, state

    samples = np.full(1_000, 0.25, np.float32) * np.sign(np.sin(np.arange(1_000) / 5)).astype(np.float32)
    samples[:10] = 0.75
    source = write(tmp_path / "a.wav", samples, subtype=subtype)
    report = enhance_file(source, tmp_path / "b.wav", Louder(8_000, {}, IDENTITY.blocks))
    assert report.peak == pytest.approx(1.5)
    assert report.limited == (10 if subtype == "PCM_16" else 0)
    found = audio.read(tmp_path / "b.wav")[0][:, 0]
    wanted = 2 * samples if subtype == "FLOAT" else np.clip(2 * samples, -1, 1)
    np.testing.assert_allclose(found, wanted, atol=1e-4)  # the gain stays; 16 bits


@pytest.mark.parametrize("shape", [(0,), (0, 2), (3, 2, 2)])
def test_a_waveform_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"expected \(T,\) or \(T, C\)"):
        denoise(np.zeros(shape), 8_000, IDENTITY)


def test_a_waveform_with_nan_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        denoise(np.array([0.0, np.nan]), 8_000, IDENTITY)


def test_tags_and_byte_order_are_kept(tmp_path, loaded):
    with soundfile.SoundFile(tmp_path / "a.aiff", "w", 8_000, 1, "PCM_16", "LITTLE") as file:
        file.title = "Interview"
        file.write(np.zeros(100))
    enhance_file(tmp_path / "a.aiff", tmp_path / "b.aiff", loaded)
    with soundfile.SoundFile(tmp_path / "b.aiff") as file:
        assert (file.title, file.subtype) == ("Interview", "PCM_16")

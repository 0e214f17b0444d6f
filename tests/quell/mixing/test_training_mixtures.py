"""Mixtures measure what they were asked for, and crops stay inside their clips."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.signal import fftconvolve

from quell.config import MixingConfig
from quell.corpus.memory_map import Clip, Split
from quell.levels import noise_gain, rms, speech_level
from quell.mixing.augmentation import room_response
from quell.mixing.training_mixtures import MixtureSampler

RATE = 8_000


def make_split(clean, noise, categories=None, rooms=()) -> Split:
    """A split whose clips hold the given int16 values, noise clip i in categories[i]."""
    clips, offset = [], 0
    for kind, signals in (("clean", clean), ("noise", noise), ("room", rooms)):
        for i, signal in enumerate(signals):
            category = categories[i] if categories and kind == "noise" else ""
            clips.append(Clip(kind, f"{kind}{i}", f"{i}", category, offset, len(signal)))
            offset += len(signal)
    return Split(np.concatenate([*clean, *noise, *rooms]).astype(np.int16), clips)


def sampler(split, segment, snr_db=(0.0, 0.0), seed=0, **settings):
    config = MixingConfig(snr_db=snr_db, **settings)
    return MixtureSampler(split, segment, RATE, torch.Generator().manual_seed(seed), config)


def decay(length, seed, direct=20):
    """A room: some silence, the direct sound, and noise that dies away."""
    tail = 8_000 * np.random.default_rng(seed).standard_normal(length) * np.exp(-np.arange(length) / (0.2 * length))
    return np.concatenate([np.zeros(direct), [32_767], tail.clip(-30_000, 30_000)])


def reverberant(response, dry):
    return fftconvolve(dry, response.astype(np.float64)[: len(dry)])[: len(dry)]


def power_db(signal):
    return 20 * torch.log10(rms(signal))


def white(length, seed):
    return 3_000 * np.random.default_rng(seed).standard_normal(length)


@pytest.mark.parametrize("snr_db", [-30.0, -5.0, 0.0, 12.5, 40.0])
def test_mixing_at_x_db_measures_x_db(snr_db):
    split = make_split([white(900, 1), white(200, 2)], [white(5_000, 3), white(100, 4)])
    noisy, clean, _ = sampler(split, 600, (snr_db, snr_db)).draw(64)
    # The difference of two float32 signals at 40 dB is good to 1e-5, that is 1e-4 dB.
    assert (power_db(clean) - power_db(noisy - clean)).flatten().tolist() == pytest.approx([snr_db] * 64, abs=1e-3)


@pytest.mark.parametrize("snr_db", [-5.0, 10.0])
@pytest.mark.parametrize("pause", [0.0, 0.5, 0.9])
def test_mixing_at_x_db_on_active_speech_measures_x_db_there(snr_db, pause):
    spoken = white(8_000, 1)
    spoken[: round(pause * 8_000)] *= 1e-3  # 60 dB below: a pause
    split = make_split([spoken], [white(20_000, 3)])
    noisy, clean, _ = sampler(split, 8_000, (snr_db, snr_db), snr_active=True).draw(8)
    begin = round(pause * 8_000)
    found = power_db(clean[:, begin:]) - power_db(noisy - clean)
    # A frame at the border is half a pause: of 20 ms in .1 s.
    assert found.flatten().tolist() == pytest.approx([snr_db] * 8, abs=0.1)


def test_the_level_of_speech_is_that_of_its_active_frames():
    wave = torch.zeros(3, 1_000)
    wave[0, 320:480] = 0.5  # two frames of 160 samples
    wave[1] = 0.25
    assert speech_level(wave, RATE).flatten().tolist() == pytest.approx([0.5, 0.25, 0.0])
    assert speech_level(torch.ones(1, 5), RATE).item() == 1.0


def test_snrs_are_drawn_evenly_between_the_limits():
    split = make_split([white(900, 1)], [white(5_000, 3)])
    noisy, clean, _ = sampler(split, 100, (-5.0, 20.0)).draw(2_000)
    found = (power_db(clean) - power_db(noisy - clean)).flatten().sort().values
    assert found[0] >= -5.001 and found[-1] <= 20.001
    # Kolmogorov-Smirnov: the distance of an even sample of 2000 is below 1.95 / sqrt(2000) 999 times in 1000.
    even = torch.linspace(-5, 20, 2_000)
    assert ((found - even).abs() / 25).max() < 1.95 / 2_000**0.5


def test_silent_clean_speech_gives_silence():
    split = make_split([np.zeros(900)], [white(500, 3)])
    noisy, clean, level = sampler(split, 600).draw(8)
    assert not noisy.any() and not clean.any() and not level.any()
    gain = noise_gain(torch.zeros(2, 50), torch.ones(2, 50), torch.tensor([[-20.0], [5.0]]))
    assert gain.tolist() == [[0.0], [0.0]]


def test_silent_noise_stays_silent():
    split = make_split([white(900, 1)], [np.zeros(500)])
    noisy, clean, _ = sampler(split, 600).draw(8)
    assert torch.equal(noisy, clean)


def test_short_speech_lies_whole_inside_silence():
    ramp = np.arange(1, 101) * 100
    _, clean, _ = sampler(make_split([ramp], [white(500, 3)]), 300).draw(400)
    starts = set()
    for row in clean:
        (places,) = torch.nonzero(row, as_tuple=True)
        assert (row[places] * 32768).tolist() == ramp.tolist()
        assert places[-1] - places[0] == 99
        starts.add(places[0].item())
    # 400 draws out of 201 places: the first and last tenth are missed with a probability of 0.9 ** 400.
    assert min(starts) < 20 and max(starts) > 180


def test_short_noise_is_repeated():
    noisy, clean, _ = sampler(make_split([np.full(400, 8_000)], [white(70, 3)]), 400).draw(16)
    sound = noisy - clean
    # The subtraction of clean speech at 0.25 rounds at 3e-8.
    assert (sound[:, 70:] - sound[:, :-70]).abs().max() < 1e-6
    assert sound[:, :70].std(1).min() > 0.1


def test_crops_never_cross_the_borders_of_clips():
    clean = [np.full(length, 1_000 * (i + 1)) for i, length in enumerate((500, 120, 61, 60, 40, 300))]
    noise = [np.full(length, sign * 9_000) for length, sign in ((80, 1), (31, -1), (60, 1), (400, -1), (60, 1))]
    noisy, speech, _ = sampler(make_split(clean, noise), 60, (10.0, 10.0)).draw(4_000)
    lengths = dict(zip(range(1_000, 7_000, 1_000), map(len, clean), strict=True))
    seen = set()
    for row in (speech * 32768).round().int():
        (value,) = set(row.tolist()) - {0}
        assert torch.count_nonzero(row) == min(60, lengths[value])
        seen.add(value)
    assert seen == set(lengths)
    full = (speech != 0).all(1)  # where speech fills the segment its level is constant, and so must the noise be
    sound = (noisy - speech)[full]
    assert (sound.std(1) < 1e-6).all()
    assert {-1.0, 1.0} == set(sound[:, 0].sign().tolist())


def chi_square(counts, expected):
    return float(((np.asarray(counts) - expected) ** 2 / expected).sum())


def test_noise_categories_are_drawn_equally_often_whatever_their_size():
    patterns = {"steady": [1, 1, 1, 1], "fast": [1, -1, 1, -1], "slow": [1, 1, -1, -1]}
    noise = [np.tile(patterns["steady"], 400), np.tile(patterns["fast"], 10), np.tile(patterns["slow"], 50)]
    noise += [np.tile(patterns["slow"], 75)]
    split = make_split([np.full(100, 5_000)], [9_000 * n for n in noise], ["steady", "fast", "slow", "slow"])
    noisy, clean, _ = sampler(split, 40).draw(3_000)
    sound = noisy - clean
    slow = sound[:, 0] * sound[:, 2] < 0
    fast = ~slow & (sound[:, 0] * sound[:, 1] < 0)
    counts = [slow.sum().item(), fast.sum().item(), (~slow & ~fast).sum().item()]
    assert chi_square(counts, np.full(3, 1_000)) < 13.8  # 2 degrees of freedom: exceeded once in 1000


def test_speech_is_drawn_by_duration():
    lengths = np.array([100, 200, 700])
    split = make_split([np.full(n, 1_000 * (i + 1)) for i, n in enumerate(lengths)], [white(500, 3)])
    _, clean, _ = sampler(split, 50).draw(3_000)
    counts = np.bincount((clean[:, 0] * 32.768).round().int().numpy(), minlength=4)[1:]
    assert chi_square(counts, 3 * lengths) < 13.8  # 2 degrees of freedom: exceeded once in 1000


def test_every_sample_of_a_clip_is_reached():
    split = make_split([np.arange(1, 41)], [white(500, 3)])
    _, clean, _ = sampler(split, 10).draw(500)
    # 31 places for the crop: the first and the last are both missed with a probability below 2 * (30/31) ** 500.
    assert set((clean * 32768).round().int().flatten().tolist()) == set(range(1, 41))


def test_same_generator_seed_gives_the_same_batches_and_another_seed_others():
    split = make_split([white(900, 1)], [white(5_000, 3)])
    first, again, other = (sampler(split, 300, (-5.0, 20.0), seed) for seed in (7, 7, 8))
    for _ in range(2):
        mine, same, different = first.draw(4), again.draw(4), other.draw(4)
        for name in ("noisy", "clean", "level"):
            assert torch.equal(getattr(mine, name), getattr(same, name))
            assert not torch.equal(getattr(mine, name), getattr(different, name))


def test_level_is_that_of_the_mixture_within_level_db():
    split = make_split([white(900, 1)], [white(5_000, 3)])
    noisy, _, level = sampler(split, 300, level_db=6.0).draw(500)
    off_db = 20 * torch.log10(level / rms(noisy))
    assert off_db.abs().max() <= 6.0001
    assert off_db.min() < -5 and off_db.max() > 5  # missed with a probability of (11/12) ** 500
    noisy, _, level = sampler(split, 300, level_db=0.0).draw(5)
    assert torch.equal(level, rms(noisy))


@pytest.mark.parametrize("direct", [0, 7, 40])
@pytest.mark.parametrize("gain", [1.0, -0.01])
def test_a_room_response_begins_with_its_peak_and_has_unit_energy(direct, gain):
    recorded = (gain / 32_768 * decay(300, 0, direct)).astype(np.float32)
    found = room_response(recorded)
    assert np.abs(found).argmax() == 0 and len(found) == 301
    assert np.square(found, dtype=np.float64).sum() == pytest.approx(1.0, rel=1e-6)  # float32
    np.testing.assert_allclose(found / found[0], recorded[direct:] / recorded[direct], atol=1e-6)


def test_a_room_that_is_an_impulse_changes_nothing():
    impulse = np.zeros(50)
    impulse[5] = 20_000
    split = make_split([white(900, 1), white(200, 2)], [white(500, 3)], rooms=[impulse])
    _, dry, _ = sampler(split, 600, rooms=0.0).draw(16)
    _, wet, _ = sampler(split, 600, rooms=1.0).draw(16)
    # A transform there and back of values below 1, float32.
    assert (wet - dry).abs().max() < 1e-5


@pytest.mark.parametrize("length", [1, 100, 599, 600, 2_000])
def test_speech_in_a_room_is_its_convolution_with_the_response_cut_to_the_segment(length):
    room = decay(length, 5)
    split = make_split([white(900, 1), white(200, 2)], [white(500, 3)], rooms=[room])
    _, dry, _ = sampler(split, 600, rooms=0.0).draw(16)
    _, wet, _ = sampler(split, 600, rooms=1.0).draw(16)
    response = room_response(split.waveform(split.of("room")[0]))
    for row, before in zip(wet.numpy(), dry.numpy(), strict=True):
        np.testing.assert_allclose(
            row, reverberant(response, before), atol=1e-5
        )  # float32 transforms of values below 1


def test_every_room_is_drawn_equally_often_whatever_its_length():
    split = make_split(
        [white(900, 1)], [white(500, 3)], rooms=[decay(30, 5), decay(400, 6), decay(90, 7), decay(200, 8)]
    )
    _, dry, _ = sampler(split, 150, rooms=0.0).draw(1_000)
    _, wet, _ = sampler(split, 150, rooms=1.0).draw(1_000)
    responses = [room_response(split.waveform(clip)) for clip in split.of("room")]
    counts = np.zeros(4)
    for row, before in zip(wet.numpy(), dry.numpy(), strict=True):
        errors = [np.abs(row - reverberant(response, before)).max() for response in responses]
        assert min(errors) < 1e-5  # as above
        counts[np.argmin(errors)] += 1
    assert chi_square(counts, np.full(4, 250)) < 16.3  # 3 degrees of freedom: exceeded once in 1000


@pytest.mark.parametrize("rooms", [0.0, 0.3, 1.0])
def test_the_share_of_mixtures_in_a_room_is_the_configured_one(rooms):
    split = make_split([white(900, 1)], [white(500, 3)], rooms=[decay(100, 5)])
    _, dry, _ = sampler(split, 150, rooms=0.0).draw(1_000)
    _, wet, _ = sampler(split, 150, rooms=rooms).draw(1_000)
    share = ((wet - dry).abs().amax(1) > 1e-3).double().mean().item()
    assert share == pytest.approx(rooms, abs=4 * (rooms * (1 - rooms) / 1_000) ** 0.5)  # 4 deviations


@pytest.mark.parametrize("snr_db", [-5.0, 20.0])
def test_the_snr_is_that_of_reverberant_speech(snr_db):
    split = make_split([white(900, 1), white(200, 2)], [white(500, 3)], rooms=[decay(100, 5), decay(900, 6)])
    noisy, clean, _ = sampler(split, 600, (snr_db, snr_db), rooms=1.0).draw(64)
    assert (power_db(clean) - power_db(noisy - clean)).flatten().tolist() == pytest.approx([snr_db] * 64, abs=1e-3)


def test_the_same_seed_gives_the_same_rooms():
    split = make_split([white(900, 1)], [white(500, 3)], rooms=[decay(100, 5), decay(300, 6)])
    first, again, other = (sampler(split, 300, seed=seed, rooms=0.5).draw(8) for seed in (7, 7, 8))
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first.clean, other.clean)


def test_without_responses_the_share_of_rooms_has_no_effect():
    split = make_split([white(900, 1)], [white(500, 3)])
    assert all(map(torch.equal, sampler(split, 300, rooms=0.0).draw(8), sampler(split, 300, rooms=1.0).draw(8)))


def test_silence_in_a_room_is_silence():
    split = make_split([np.zeros(900)], [white(500, 3)], rooms=[decay(100, 5)])
    assert not any(side.any() for side in sampler(split, 600, rooms=1.0).draw(8))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_share_of_mixtures_without_noise_is_the_configured_one(share):
    split = make_split([white(900, 1)], [white(5_000, 3)])
    noisy, clean, level = sampler(split, 100, clean=share).draw(2_000)
    without = (noisy == clean).all(1)
    assert without.float().mean().item() == pytest.approx(share, abs=0.03)  # 3 standard deviations of 2000 draws
    assert (level > 0).all()


@pytest.mark.parametrize("snr_db", [-5.0, 20.0])
@pytest.mark.parametrize(
    "settings", [{"second_noise": 1.0}, {"colour_db": 6.0}, {"second_noise": 0.5, "colour_db": 9.0}]
)
def test_the_snr_is_that_of_all_the_noise_and_of_equalised_speech(snr_db, settings):
    split = make_split([white(900, 1)], [white(5_000, 3), white(100, 4)])
    noisy, clean, _ = sampler(split, 601, (snr_db, snr_db), **settings).draw(64)
    assert (power_db(clean) - power_db(noisy - clean)).flatten().tolist() == pytest.approx([snr_db] * 64, abs=1e-3)


def test_a_second_noise_is_softer_and_in_the_configured_share():
    # Two noises that a product with either tells apart: each category is a tone.
    place = np.arange(8_000)
    tones = [3_000 * np.sin(2 * np.pi * place * bin_ / 400) for bin_ in (50, 100)]
    split = make_split([white(900, 1)], tones, ["low", "high"])
    noisy, clean, _ = sampler(split, 400, second_noise=0.5).draw(2_000)
    power = torch.fft.rfft(noisy - clean).abs().square()[:, [50, 100]]
    both = (power > 1e-4 * power.sum(1, keepdim=True)).all(1)
    # Half of the mixtures have a second noise, and it is another one in half of these.
    assert both.float().mean().item() == pytest.approx(0.25, abs=0.03)
    softer_db = 10 * torch.log10(power[both].amax(1) / power[both].amin(1))
    assert softer_db.max() <= 10.01 and softer_db.max() - softer_db.min() > 9


def test_equalisers_keep_their_limit_and_differ_between_mixtures_and_sides():
    click = 30_000 * np.eye(1, 400)[0]
    split = make_split([click], [click])
    noisy, clean, _ = sampler(split, 400, colour_db=6.0).draw(64)
    for side in (clean, noisy - clean):
        flat_db = 20 * torch.log10(torch.fft.rfft(side).abs())
        spread_db = flat_db.amax(1) - flat_db.amin(1)
        assert spread_db.max() <= 12.1 and spread_db.min() > 1
        assert (flat_db[1:] - flat_db[:-1]).abs().amax(1).min() > 0.1


def paired_split(snrs_db=(0.0, 10.0), length=4_000, remix=False):
    """Noisy and clean sides, at these SNRs, of recordings that come one after the other."""
    clips, samples, offset = [], [], 0
    for number, snr_db in enumerate(snrs_db):
        clean = white(length, 2 * number)
        noise = white(length, 2 * number + 1) * 10 ** (-snr_db / 20)
        sides = {"clean": clean, "noisy": clean + noise, **({"noise": noise} if remix else {})}
        for kind, signal in sides.items():
            clips.append(Clip(kind, f"{number}.wav", f"{number}", "", offset, length))
            samples.append(signal)
            offset += length
    return Split(np.concatenate(samples).astype(np.int16), clips)


def test_both_sides_of_a_pair_are_cut_alike_and_keep_their_snr():
    noisy, clean, _ = sampler(paired_split(), 2_000, snr_db=(30.0, 40.0)).draw(64)
    found = (power_db(clean) - power_db(noisy - clean)).flatten()
    # Half of a recording is as good as the whole to a few tenths of a dB.
    assert set(found.round(decimals=-1).tolist()) == {0.0, 10.0}
    assert ((found - found.round(decimals=-1)).abs() < 0.5).all()


@pytest.mark.parametrize(("remix", "kept"), [(0.0, 1.0), (1.0, 0.0), (0.25, 0.75)])
def test_a_share_of_the_pairs_is_remixed(remix, kept):
    split = paired_split(remix=True)
    noisy, clean, _ = sampler(split, 2_000, snr_db=(30.0, 30.0), remix=remix).draw(2_000)
    found = power_db(clean) - power_db(noisy - clean)
    assert (found < 20).float().mean().item() == pytest.approx(kept, abs=0.05)


def test_without_their_noise_pairs_are_not_remixed():
    noisy, clean, _ = sampler(paired_split(), 2_000, snr_db=(30.0, 30.0), remix=1.0).draw(100)
    assert (power_db(clean) - power_db(noisy - clean) < 20).all()


def test_noise_levels_are_shares_of_the_peak_whatever_the_speech():
    loud, soft = np.full(900, 30_000.0), np.full(900, 3.0)
    split = make_split([loud, soft], [np.full(500, 16_384.0)])
    noisy, clean, _ = sampler(split, 100, noise_level=(0.2, 0.8)).draw(2_000)
    levels = ((noisy - clean)[:, 0] / 0.5).sort().values
    assert levels[0] >= 0.199 and levels[-1] <= 0.801
    assert ((levels - torch.linspace(0.2, 0.8, 2_000)).abs() / 0.6).max() < 1.95 / 2_000**0.5


def test_kinds_of_noise_are_drawn_by_their_weights():
    noises = [np.full(500, value) for value in (1_000, 2_000, 3_000, 4_000)]
    split = make_split([white(900, 1)], noises, ["rain", "rain", "wind", "hum"])
    weights = {"rain": 3.0, "hum": 0.0}
    noisy, clean, _ = sampler(split, 100, noise_level=(1.0, 1.0), noise_weights=weights).draw(4_000)
    drawn = ((noisy - clean)[:, 0] * 32_768).round().int().tolist()
    shares = {value: drawn.count(value) / 4_000 for value in (1_000, 2_000, 3_000, 4_000)}
    assert shares == pytest.approx({1_000: 0.375, 2_000: 0.375, 3_000: 0.25, 4_000: 0.0}, abs=0.03)


@pytest.mark.parametrize(
    ("weights", "problem"),
    [
        ({"snow": 1.0}, "'snow', expected kinds of noise in training: rain, wind"),
        ({"rain": 0.0, "wind": 0.0}, "above 0"),
    ],
)
def test_weights_of_unknown_kinds_are_refused(weights, problem):
    split = make_split([white(900, 1)], [white(500, 2), white(500, 3)], ["rain", "wind"])
    with pytest.raises(ValueError, match=f"noise_weights: .*{problem}"):
        sampler(split, 100, noise_weights=weights)


def test_a_share_of_both_sides_is_band_limited():
    split = make_split([white(9_000, 1)], [white(5_000, 3)])
    noisy, clean, _ = sampler(split, 4_000, band_limit=0.5).draw(400)
    for side in (noisy, clean):
        power = torch.fft.rfft(side).abs().square()
        top = power[:, int(0.98 * power.shape[1]) :].mean(1) / power.mean(1)
        # Edges are drawn evenly by octaves from 3 to 4 kHz; a tenth of an octave above them there is silence.
        ended = np.log(0.98 * 4_000 / 2**0.1 / 3_000) / np.log(4_000 / 3_000)
        assert (top < 1e-6).float().mean().item() == pytest.approx(0.5 * ended, abs=0.08)
        low = power[:, : int(0.7 * power.shape[1])].mean(1) / power.mean(1)
        assert (low > 0.8).all()  # what is below 3 kHz stays
    # The same edge on both sides: the noise between them ends there, too.
    noise = torch.fft.rfft(noisy - clean).abs().square()
    limited = torch.fft.rfft(clean).abs().square()[:, -40:].mean(1) < 1e-6 * noise.mean(1)
    assert limited.sum() > 40 and (noise[limited][:, -40:].mean(1) < 1e-6 * noise[limited].mean(1)).all()


def test_a_share_of_the_noisy_sides_only_is_clipped():
    split = make_split([white(9_000, 1)], [white(5_000, 3)])
    noisy, clean, _ = sampler(split, 4_000, clipping=0.5).draw(400)
    plain = sampler(split, 4_000).draw(400)

    def at_peak(side):
        return (side.abs() >= 0.999 * side.abs().amax(1, keepdim=True)).float().mean(1)

    assert (at_peak(noisy) > 0.002).float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert (at_peak(clean) < 0.002).all() and (at_peak(plain.noisy) < 0.002).all()


def test_a_share_of_the_noisy_sides_is_coded_without_a_delay():
    time = np.arange(9_000) / RATE
    tones = sum(3_000 * np.sin(2 * np.pi * hz * time) for hz in (310, 620, 1_250))
    split = make_split([tones], [white(5_000, 3)])
    config = {"snr_db": (30.0, 30.0), "rooms": 0.0}
    noisy, clean, _ = sampler(split, 4_000, **config, codec=0.5).draw(40)
    snr_db = (power_db(clean) - power_db(noisy - clean)).flatten()
    assert (snr_db < 29.5).float().mean().item() == pytest.approx(0.5, abs=0.25)
    assert snr_db.median() > 8  # a shift by a few samples would put all of them near 0 dB

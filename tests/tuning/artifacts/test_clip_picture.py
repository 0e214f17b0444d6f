"""All pictures have the same size and scale, and a changed clip changes its own panel only."""

import io
import subprocess
import sys

import numpy as np
import pytest
from matplotlib import rc_context
from PIL import Image
from quell_tuning.artifacts import clip_picture
from quell_tuning.artifacts.clip_picture import ClipSignals, picture, spectrogram

from quell.audio import FloatArray

RATE = 16_000
PANELS = [slice(left, left + clip_picture.PANEL) for left in clip_picture.COLUMNS]
ROWS = slice(clip_picture.WAVES, clip_picture.IMAGES + clip_picture.IMAGE)


def tone(hertz: float, seconds: float = 1.0, rate: int = RATE) -> FloatArray:
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate).astype(np.float32)


def white(seconds: float, rate: int = RATE, seed: int = 0) -> FloatArray:
    noise = np.random.default_rng(seed).standard_normal(round(seconds * rate)).astype(np.float32)
    return 0.5 * noise / np.abs(noise).max()


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


@pytest.mark.parametrize(("seconds", "rate"), [(0.03, 8_000), (1.0, 16_000), (8.0, 48_000)])
def test_every_picture_is_a_png_of_the_same_size(seconds: float, rate: int) -> None:
    clip = white(seconds, rate)
    shown = Image.open(io.BytesIO(picture(ClipSignals(clip, clip, clip), rate, "title")))
    assert (shown.format, shown.size) == ("PNG", (clip_picture.WIDTH, clip_picture.HEIGHT))


def test_the_same_clips_give_the_same_bytes() -> None:
    clips = ClipSignals(white(1.0), white(1.0, seed=1), white(1.0, seed=2))
    first = picture(clips, RATE, "title")
    picture(ClipSignals(white(2.0), white(2.0), white(2.0)), 8_000, "another")  # nothing stays behind
    assert picture(clips, RATE, "title") == first


def test_the_users_settings_of_matplotlib_change_nothing() -> None:
    clips = ClipSignals(white(1.0), white(1.0), white(1.0))
    first = picture(clips, RATE, "title")
    clip_picture._sheet.cache_clear()
    clip_picture._time_axis.cache_clear()
    with rc_context({"font.size": 20, "axes.facecolor": "black", "text.color": "white"}):
        assert picture(clips, RATE, "title") == first


def test_another_denoised_clip_changes_its_own_panel_only() -> None:
    noisy, clean = white(1.0), tone(440)
    one, other = (pixels(picture(ClipSignals(noisy, answer, clean), RATE, "title")) for answer in (clean, noisy))
    changed = np.flatnonzero((one != other).any(axis=(0, 2)))
    assert PANELS[1].start <= changed[0] and changed[-1] < PANELS[1].stop


def test_the_same_clip_looks_the_same_in_every_panel() -> None:
    clip = 0.2 * tone(440) + 0.1 * white(1.0)
    shown = pixels(picture(ClipSignals(clip, clip, clip), RATE, "title"))
    noisy, denoised, clean = (shown[ROWS, across] for across in PANELS)
    assert np.array_equal(noisy, denoised) and np.array_equal(denoised, clean)


def test_a_clip_20_db_quieter_is_20_db_lower() -> None:
    clip = white(2.0)
    loud, quiet = (spectrogram(gain * clip, RATE, 100, 257) for gain in (1.0, 0.1))
    # -120 dB are added to every level, which some bins of the quieter clip come within 60 dB of.
    assert np.median(loud - quiet) == pytest.approx(20, abs=0.01)
    assert np.abs(loud - quiet - 20)[quiet > -80].max() < 0.1


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
def test_a_sine_of_full_scale_has_0_db_at_its_frequency(rate: int) -> None:
    levels = spectrogram(tone(rate / 8, rate=rate), rate, 101, 257)
    middle = levels[:, 50]
    assert middle.argmax() == pytest.approx(256 / 4, abs=1)
    # Between two rows a Hann window loses up to 1.4 dB; at 48 kHz a row may be one bin and a half away.
    assert -3.5 < middle.max() < 0.1
    assert middle[:32].max() < -60 and middle[100:].max() < -60


def test_a_click_is_seen_at_its_time() -> None:
    clip = np.zeros(8 * RATE, np.float32)
    for second in np.arange(0.5, 8):
        clip[round(second * RATE)] = 0.5
    levels = spectrogram(clip, RATE, 400, 257).mean(axis=0)
    loud = np.flatnonzero(levels > -80)
    assert {round(column * 8 / 400 - 0.5) for column in loud} == set(range(8))


def test_too_loud_and_silent_clips_are_drawn_at_the_ends_of_the_scale() -> None:
    loud = pixels(picture(ClipSignals(100 * white(1.0), np.zeros(RATE, np.float32), white(1.0)), RATE, "title"))
    rows = slice(clip_picture.IMAGES + 2, clip_picture.IMAGES + clip_picture.IMAGE - 2)
    bar = loud[rows, PANELS[2].stop + clip_picture.GAP + clip_picture.BAR // 2]
    assert (loud[rows, PANELS[1]] == bar[-1]).all()  # silence
    assert (loud[rows, PANELS[0]] == bar[0]).all(axis=-1).mean() > 0.5  # -20 dB and more
    inked = (loud[clip_picture.WAVES + 2 : clip_picture.WAVES + clip_picture.WAVE - 2, PANELS[0]] < 255).any(axis=-1)
    assert inked.all()


@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_the_longest_clip_of_noise_stays_under_the_largest_size(rate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = ClipSignals(*(white(8.0, rate, seed) for seed in range(3)))
    assert len(picture(clips, rate, "title")) <= 1000 * clip_picture.LARGEST_KB

    def any_level(_clip: FloatArray, _rate: int, columns: int, rows: int) -> FloatArray:
        return np.random.default_rng(0).uniform(*clip_picture.LEVELS_DB, (rows, columns)).astype(np.float32)

    monkeypatch.setattr(clip_picture, "spectrogram", any_level)  # no sound is as hard to pack
    assert len(picture(clips, rate, "title")) <= 1000 * clip_picture.LARGEST_KB


def test_a_title_may_have_any_characters() -> None:
    clip = white(0.5)
    titles = ("plain", "$cost$ ^_ \\frac", "雨 ☔ \x07", "")
    assert len({picture(ClipSignals(clip, clip, clip), RATE, title) for title in titles}) == len(titles)


def test_a_picture_needs_neither_screen_nor_pyplot_nor_torch() -> None:
    code = (
        "import sys, numpy as np; from quell_tuning.artifacts.clip_picture import ClipSignals, picture\n"
        "clip = np.zeros(8000, np.float32); picture(ClipSignals(clip, clip, clip), 8000, 'title')\n"
        "print([name for name in ('matplotlib.pyplot', 'torch') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], env={"MPLBACKEND": "tkagg"}, capture_output=True, text=True)
    assert (answer.stdout.strip(), answer.stderr) == ("[]", "")

"""One picture of a clip: waveforms and spectrograms of its noisy, denoised and clean version side by side.

matplotlib draws only axes and text, and the axes once for all pictures. Waveforms and spectrograms are written into the
pixels: that takes a tenth of the time that matplotlib needs for the whole.
"""

from __future__ import annotations

import io
import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quell.audio import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Page = NDArray[np.uint8]  # (rows, columns), indices into the palette

DPI = 100
# Pixels. A spectrogram has two rows for each bin at 16 kHz.
LEFT, PANEL, GAP, BAR, RIGHT = 74, 400, 36, 18, 66
TITLE, HEADING, WAVE, BETWEEN, IMAGE, BOTTOM = 66, 26, 116, 14, 514, 54
WIDTH = LEFT + 3 * PANEL + 3 * GAP + BAR + RIGHT
HEIGHT = TITLE + HEADING + WAVE + BETWEEN + IMAGE + BOTTOM
WAVES, IMAGES = TITLE + HEADING, TITLE + HEADING + WAVE + BETWEEN  # their first rows
LARGEST_KB = 300  # of 1000 bytes; 300,000 points of 6 bits, if none of them could be compressed, are 231
COLUMNS = [LEFT + (PANEL + GAP) * panel for panel in range(3)]

# The same for all clips: mixtures have their peak at half of full scale.
LOUDEST = 0.6
LEVELS_DB = (-100.0, -20.0)
WINDOW_S = 0.032
SILENCE = 1e-6
# The palette: shades of the colour map, 1.25 dB apart, then greys from black to white.
SHADES, GREYS = 64, 128
INK = SHADES + 40


class ClipSignals(NamedTuple):
    """The three versions of a clip, (T,) each."""

    noisy: FloatArray
    denoised: FloatArray
    clean: FloatArray


HEADINGS = ("noisy", "denoised", "clean")


def picture(clips: ClipSignals, sample_rate: int, title: str, headings: tuple[str, str, str] = HEADINGS) -> bytes:
    """A PNG of WIDTH x HEIGHT pixels and at most LARGEST_KB, the same bytes for the same clips.

    Samples beyond LOUDEST and levels outside of LEVELS_DB are clipped to them.

    Args:
        sample_rate: Hz.
        title: one line or two.
        headings: above the three panels.
    """
    from matplotlib import style
    from PIL import Image

    with style.context("default"):  # not the user's settings of matplotlib
        page = _sheet(sample_rate, headings).copy()
        page[:TITLE] = _title(title)
        ticks = _time_axis(len(clips.clean) / sample_rate)
    low, high = LEVELS_DB
    for left, clip in zip(COLUMNS, clips, strict=True):
        across = slice(left, left + PANEL)
        page[WAVES : WAVES + WAVE, across][_outline(clip)] = INK
        shades = (spectrogram(clip, sample_rate, PANEL, IMAGE // 2) - low) / (high - low) * SHADES
        page[IMAGES : IMAGES + IMAGE, across] = shades[::-1].clip(0, SHADES - 1).repeat(2, axis=0)
        below = page[-BOTTOM:, left - GAP // 2 : left + PANEL + GAP // 2]
        np.minimum(below, ticks, out=below)  # whichever is darker
    image = Image.frombytes("P", (WIDTH, HEIGHT), page.tobytes())
    image.putpalette(_palette())
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)  # 6 takes twice as long for a tenth less
    return file.getvalue()


def spectrogram(clip: FloatArray, sample_rate: int, columns: int, rows: int) -> FloatArray:
    """Levels in dB, 0 dB for a sine of full scale, of one frame of WINDOW_S in the middle of each column.

    Shape:
        clip: (T,), T >= 1. Returns (rows, columns), from 0 Hz to half the sample rate.
    """
    length = max(2, round(WINDOW_S * sample_rate))
    window = np.hanning(length + 1)[:-1].astype(np.float32)
    centres = ((np.arange(columns) + 0.5) * len(clip) / columns).astype(np.intp)
    padded = np.pad(clip.astype(np.float32, copy=False), length // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, length)[centres] * window
    # The window spreads a tone over four bins: one of every three is enough to see it, up to 48 kHz.
    bins = np.linspace(0, length // 2, rows).round().astype(np.intp)
    magnitude = np.abs(np.fft.rfft(frames, axis=1))[:, bins].T / (window.sum() / 2)
    return np.asarray(20 * np.log10(magnitude + SILENCE), dtype=np.float32)


def _outline(clip: FloatArray) -> NDArray[np.bool_]:
    """Pixels of the waveform, (WAVE, PANEL): in each column those from its lowest sample to its highest."""
    starts = (np.arange(PANEL) * len(clip) / PANEL).astype(np.intp)
    low, high = np.minimum.reduceat(clip, starts), np.maximum.reduceat(clip, starts)
    bottom, top = ((1 - np.clip(ends / LOUDEST, -1, 1)) / 2 * (WAVE - 1) for ends in (low, high))
    row = np.arange(WAVE)[:, None]
    return np.asarray((row >= np.floor(top)) & (row <= np.ceil(bottom)))


@lru_cache(maxsize=1)
def _palette() -> bytes:
    from matplotlib import colormaps

    shades = colormaps["magma"](np.linspace(0, 1, SHADES), bytes=True)[:, :3]
    greys = np.linspace(0, 255, GREYS).round().astype(np.uint8)
    return np.concatenate([shades, np.stack([greys] * 3, axis=1)]).tobytes()


@lru_cache(maxsize=1)
def _sheet(sample_rate: int, headings: tuple[str, str, str]) -> Page:
    """The page without title, clips and time axes."""
    figure = _figure(WIDTH, HEIGHT)
    for panel, name in enumerate(headings):
        wave = _axes(figure, COLUMNS[panel], WAVES, PANEL, WAVE)
        image = _axes(figure, COLUMNS[panel], IMAGES, PANEL, IMAGE)
        wave.set(title=name, xticks=(), ylim=(-LOUDEST, LOUDEST), yticks=(-0.5, 0, 0.5))
        image.set(xticks=(), ylim=(0, sample_rate / 2000))
        for axes, label in ((wave, "amplitude"), (image, "frequency (kHz)")):
            axes.set_ylabel(label if panel == 0 else "")
            axes.tick_params(labelleft=panel == 0)
    left = COLUMNS[-1] + PANEL + GAP
    bar = _axes(figure, left, IMAGES, BAR, IMAGE)
    bar.set(ylim=LEVELS_DB, ylabel="level (dB of full scale)", xticks=())
    bar.yaxis.tick_right()
    bar.yaxis.set_label_position("right")
    page = _pixels(figure)
    shades = np.arange(IMAGE)[::-1] * SHADES // IMAGE
    page[IMAGES : IMAGES + IMAGE, left : left + BAR] = shades[:, None]
    return page


@lru_cache(maxsize=8)  # a study shows the same four clips in every trial
def _time_axis(seconds: float) -> Page:
    """The axis below a spectrogram, (BOTTOM, PANEL + GAP)."""
    figure = _figure(PANEL + GAP, BOTTOM)
    width = PANEL / (PANEL + GAP)
    figure.add_axes(((1 - width) / 2, 1, width, 1), xlabel="time (s)", xlim=(0, seconds), yticks=())
    return _pixels(figure)


def _title(text: str) -> Page:
    figure = _figure(WIDTH, TITLE)
    middle = (LEFT + COLUMNS[-1] + PANEL) / 2 / WIDTH
    figure.text(middle, 0.5, text, ha="center", va="center", fontsize=11, linespacing=1.4, parse_math=False)
    return _pixels(figure)


def _figure(columns: int, rows: int) -> Figure:
    from matplotlib.figure import Figure

    return Figure((columns / DPI, rows / DPI), dpi=DPI)


def _axes(figure: Figure, left: int, top: int, width: int, height: int) -> Axes:
    """Axes at these pixels of the page."""
    return figure.add_axes((left / WIDTH, 1 - (top + height) / HEIGHT, width / WIDTH, height / HEIGHT))


def _pixels(figure: Figure) -> Page:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # letters that the font does not have become boxes
        canvas.draw()  # type: ignore[no-untyped-call]
    red = np.asarray(canvas.buffer_rgba())[..., 0]  # type: ignore[no-untyped-call]
    return np.asarray(SHADES + red // (256 // GREYS), dtype=np.uint8)

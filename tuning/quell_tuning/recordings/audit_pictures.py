"""Recordings at a glance: histograms of level, duration and SNR, and a sheet of spectrograms."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from quell import audio
from quell.atomic import replacing
from quell.audit.corpus_audit import Audit
from quell.audit.inspection import Inspection
from quell.corpus.recordings import Kind
from quell.corpus.splits import SPLITS
from quell_tuning.artifacts.clip_picture import LEVELS_DB, spectrogram

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHEET = 24  # recordings on the sheet of spectrograms, half of them speech
COLUMNS = 6
LONGEST_S = 5.0  # of a spectrogram


def _sides(audit: Audit) -> tuple[tuple[Kind, str], ...]:
    return ("clean", "speech"), (("noise", "noise") if audit.config.noisy is None else ("noisy", "noisy speech"))


def draw(audit: Audit, folder: Path) -> list[Path]:
    """Writes the pictures and returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {"histograms.png": _histograms(audit), "spectrograms.png": _sheet(audit)}
    for name, figure in drawn.items():
        with replacing(folder / name) as partial:
            figure.savefig(partial, format="png", dpi=100)
    return [folder / name for name in drawn]


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _of(audit: Audit, kind: Kind) -> list[Inspection]:
    return [inspection for split in SPLITS for _, inspection in audit.of(split, kind)]


def _histograms(audit: Audit) -> Figure:
    figure = _figure(12, 6)
    for row, (kind, name) in enumerate(_sides(audit)):
        found = _of(audit, kind)
        ranges = [one.range_db for one in found if one.range_db > 0]
        last = ("loud over soft frames (dB)" + ("; its SNR at most" if kind == "clean" else ""), ranges)
        if kind == "noisy":
            last = ("SNR (dB)", [pairing.snr_db for pairing in audit.pairings.values()])
        shown = (
            ("level (dB of full scale, rms)", [20 * np.log10(max(one.rms, 1e-6)) for one in found]),
            ("duration (s)", [one.seconds for one in found]),
            last,
        )
        for column, (label, values) in enumerate(shown):
            axes = figure.add_subplot(2, 3, 3 * row + column + 1)
            axes.hist(values, bins=40, color="tab:blue" if kind == "clean" else "tab:orange")
            axes.set(xlabel=label, ylabel=f"recordings of {name}" if column == 0 else "")
    return figure


def _sheet(audit: Audit) -> Figure:
    """Recordings at even distances through the list, each at its own level."""
    figure = _figure(16, 10)
    chosen = []
    for kind, _ in _sides(audit):
        recordings = [recording for split in SPLITS for recording, _ in audit.of(split, kind)]
        places = np.linspace(0, len(recordings) - 1, min(SHEET // 2, len(recordings))).astype(int)
        chosen += [recordings[place] for place in places]
    rate = audit.config.sample_rate
    for number, recording in enumerate(chosen, 1):
        path = audit.config.folder(recording.kind) / recording.path
        samples = audio.read_mono(path, rate)[: round(LONGEST_S * rate)]
        samples = samples * (0.5 / max(float(np.abs(samples).max()), 1e-9))
        axes = figure.add_subplot(-(-len(chosen) // COLUMNS), COLUMNS, number)
        low, high = LEVELS_DB
        extent = (0, len(samples) / rate, 0, rate / 2000)
        shades = spectrogram(samples, rate, 300, 128)
        axes.imshow(shades, origin="lower", aspect="auto", extent=extent, vmin=low, vmax=high, cmap="magma")
        axes.set_title(recording.name[-44:], fontsize=7, parse_math=False)
        axes.tick_params(labelsize=7)
        if number > len(chosen) - COLUMNS:
            axes.set_xlabel("time (s)", fontsize=8)
        if number % COLUMNS == 1:
            axes.set_ylabel("kHz", fontsize=8)
    return figure

"""Pictures of an audit: histograms of level, duration and dynamic range, and a sheet of spectrograms."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from quell import audio
from quell.atomic import replacing
from quell.audit.corpus_audit import Audit
from quell.corpus.recordings import Kind
from quell.corpus.splits import SPLITS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHEET = 24  # recordings on the sheet of spectrograms, half of them speech
COLUMNS = 6
LONGEST_S = 5.0  # of a spectrogram
WINDOW_S = 0.032
RANGE_DB = 80.0  # of a spectrogram, below its loudest point


def _sides(audit: Audit) -> tuple[tuple[Kind, str], ...]:
    return ("clean", "speech"), (("noise", "noise") if audit.config.noisy is None else ("noisy", "noisy speech"))


def draw(audit: Audit, folder: Path) -> list[Path]:
    """Writes the pictures as PNG and returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {"histograms.png": _histograms(audit), "spectrograms.png": _sheet(audit)}
    for name, figure in figures.items():
        with replacing(folder / name) as partial:
            figure.savefig(partial, format="png", dpi=100)
    return [folder / name for name in figures]


def _histograms(audit: Audit) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure((12, 6), layout="constrained")
    for row, (kind, name) in enumerate(_sides(audit)):
        inspections = [inspection for split in SPLITS for _, inspection in audit.of(split, kind)]
        if kind == "noisy":
            last = ("SNR (dB)", [pairing.snr_db for pairing in audit.pairings.values()])
        else:
            label = "upper bound of the SNR (dB)" if kind == "clean" else "loud minus soft frames (dB)"
            last = (label, [one.range_db for one in inspections if one.range_db > 0])
        histograms = (
            ("level (dB of full scale, rms)", [20 * np.log10(max(one.rms, 1e-6)) for one in inspections]),
            ("duration (s)", [one.seconds for one in inspections]),
            last,
        )
        for column, (label, values) in enumerate(histograms):
            axes = figure.add_subplot(2, 3, 3 * row + column + 1)
            axes.hist(values, bins=40, color="tab:blue" if kind == "clean" else "tab:orange")
            axes.set(xlabel=label, ylabel=f"recordings of {name}" if column == 0 else "")
    return figure


def _sheet(audit: Audit) -> Figure:
    """Spectrograms of recordings at even distances through each list, in dB below the loudest point of each."""
    from librosa import amplitude_to_db, stft
    from librosa.display import specshow
    from matplotlib.figure import Figure

    rate = audit.config.sample_rate
    chosen = []
    for kind, _ in _sides(audit):
        recordings = [recording for split in SPLITS for recording, _ in audit.of(split, kind)]
        places = np.linspace(0, len(recordings) - 1, min(SHEET // 2, len(recordings))).astype(int)
        chosen += [recordings[place] for place in places]
    window = round(WINDOW_S * rate)
    hop = window // 2  # about a column of pixels
    figure = Figure((16, 10), layout="constrained")
    for number, recording in enumerate(chosen):
        path = audit.config.folder(recording.kind) / recording.path
        samples = audio.read_mono(path, rate)[: round(LONGEST_S * rate)]
        samples = np.pad(samples, (0, max(0, window - len(samples))))  # librosa warns about less than a window
        levels = amplitude_to_db(np.abs(stft(samples, n_fft=window, hop_length=hop)), ref=np.max, top_db=RANGE_DB)
        axes = figure.add_subplot(-(-len(chosen) // COLUMNS), COLUMNS, number + 1)
        image = specshow(levels, sr=rate, n_fft=window, hop_length=hop, x_axis="s", y_axis="hz", ax=axes, cmap="magma")
        image.set_clim(-RANGE_DB, 0)
        axes.set_title(recording.name[-44:], fontsize=7, parse_math=False)
        axes.tick_params(labelsize=7)
        axes.set_xlabel("time (s)" if number >= len(chosen) - COLUMNS else "", fontsize=8)
        axes.set_ylabel("frequency (Hz)" if number % COLUMNS == 0 else "", fontsize=8)
    if chosen:
        bar = figure.colorbar(image, ax=figure.axes, fraction=0.02, aspect=60, pad=0.01)
        bar.set_label("level (dB below the loudest point of the recording)", fontsize=8)
        bar.ax.tick_params(labelsize=7)
    sides = " and ".join(name for _, name in _sides(audit))
    figure.suptitle(f"{sides} at {rate} Hz: {len(chosen)} recordings, the first {LONGEST_S:g} s of each", fontsize=11)
    return figure

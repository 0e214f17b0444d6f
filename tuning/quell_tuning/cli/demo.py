"""`quell demo`: search, export and denoise on a synthetic corpus."""

import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from quell import audio
from quell.audio import writer
from quell.corpus.memory_map import Corpus
from quell.export.exported_model import load
from quell.inference.enhancement import enhance_file
from quell.metrics import intrusive
from quell.metrics.scorer import Scorer
from quell.mixing.evaluation_mixtures import evaluation_set
from quell_tuning.export.export_trial import export_best
from quell_tuning.results import status
from quell_tuning.study import study_file
from quell_tuning.workers.devices import check_devices, share_devices
from quell_tuning.workers.tune import Tune
from quell_tuning.workspace.workspace import Workspace


def demo(study: Path, place: Workspace, console: Console, log: Console) -> int:
    """Runs the study, exports its best trial, denoises one noisy file of the test split; returns the exit code."""
    started = time.monotonic()
    spec = study_file.load(study)
    devices = share_devices(check_devices([]), 1, 2)
    code, (stored, *_) = Tune(spec, study, place, devices, log).run()
    if code:
        return code
    status.show(status.summary(stored), console)
    folder = place.runs.study(spec.study.name)
    model = folder / "best.pt"
    export_best(stored, place.runs, model, overwrite=True, console=log)
    noisy, clean, denoised = (folder / f"{name}.wav" for name in ("noisy", "clean", "denoised"))
    label = _write_example(place.open_corpus(spec, log), spec, noisy, clean)
    enhance_file(noisy, denoised, load(model))
    _show_scores(noisy, clean, denoised, label, console)
    for name, path in {
        "recordings": place.corpus_root(spec),
        "study": place.storage_url.removeprefix("sqlite:///"),
        "denoiser": model,
        "noisy": noisy,
        "denoised": denoised,
        "clean": clean,
    }.items():
        console.print(f"{name:<10} {path}", highlight=False)
    runs = "" if place.runs.folder == Path("runs") else f" --runs {place.runs.folder}"
    console.print(f"listen     {Path(sys.argv[0])} dashboard {spec.study.name}{runs}", highlight=False)
    console.print(f"{time.monotonic() - started:.0f} s in all", highlight=False)
    return 0


def _write_example(corpus: Corpus, spec: study_file.StudySpec, noisy: Path, clean: Path) -> str:
    """Writes a mixture of the test split; returns its label and SNR."""
    with Scorer() as scorer:
        mixtures = evaluation_set(corpus, "test", 6, spec.corpus.snr_db, spec.study.seed, scorer)
    wav = audio.Format(corpus.sample_rate, "WAV", "PCM_16")
    example = int(np.argsort(mixtures.snr_db)[2])  # of the six SNRs the third lowest: 5 dB in the demo
    writer.write(noisy, mixtures.noisy[example], wav)
    writer.write(clean, mixtures.clean[example], wav)
    return f"{mixtures.labels[example]} at {mixtures.snr_db[example]:g} dB SNR"


def _show_scores(noisy: Path, clean: Path, denoised: Path, label: str, console: Console) -> None:
    target, stored = audio.read(clean)
    names = intrusive.available(stored.sample_rate)
    estimates = [np.ascontiguousarray(audio.read(path)[0][:, 0]) for path in (noisy, denoised)]
    with Scorer() as scorer:
        scores = scorer.score_clips(estimates, [target[:, 0]] * 2, stored.sample_rate, names)
    table = Table(title=f"one file of the test split: {label}")
    table.add_column("")
    for name in names:
        table.add_column(f"{name} ({intrusive.UNITS[name]})", justify="right", no_wrap=True)
    for path, score in zip((noisy, denoised), scores, strict=True):
        table.add_row(path.stem, *(f"{score.values[name]:.3f}" for name in names))
    console.print(table)

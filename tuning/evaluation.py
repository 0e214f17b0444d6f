"""`quell evaluate`: an exported denoiser on the test split, beside the noisy input."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from quell.corpus import Corpus
from quell.heldout import EvaluationSet, evaluation_set
from quell.metrics import UNITS
from quell.model import Model
from quell.scoring import Scorer, Scores
from tuning import progress
from tuning.errors import TuningError
from tuning.study_file import StudySpec


def test_scores(
    model: Model, spec: StudySpec, corpus: Corpus, scorer: Scorer, mixtures: int, console: Console
) -> tuple[EvaluationSet, Scores]:
    """So many of the study's test mixtures and the model's scores on them.

    Raises:
        TuningError: the model runs at another rate than the study.
    """
    if model.sample_rate != corpus.sample_rate:
        rates = f"{model.sample_rate} Hz, expected that of the study, {corpus.sample_rate} Hz"
        raise TuningError(f"model: sampled at {rates}; evaluate it on another study")
    with progress.bar("scoring the noisy mixtures", console) as move:
        chosen = evaluation_set(corpus, "test", mixtures, spec.corpus.snr_db, spec.study.seed, scorer, move)
    with progress.bar("scoring the denoised mixtures", console) as move:
        return chosen, scorer.score(model, chosen, progress=move)


def summary(mixtures: EvaluationSet, scores: Scores) -> dict[str, Any]:
    """The table as a dictionary; everything is JSON."""
    noisy = mixtures.noisy_scores
    return {
        "mixtures": len(mixtures.labels),
        "minutes": mixtures.seconds / 60,
        "failures": scores.failures,
        "noisy": noisy.means(),
        "denoised": scores.means(),
        "gain": {name: scores.gain_over(noisy, name) for name in scores.values},
        "worse": {name: scores.worse_than(noisy, name) for name in scores.values},
        "by_snr": [
            {"snr_db": snr_db, "noisy": noisy.by_snr()[snr_db], "denoised": means}
            for snr_db, means in scores.by_snr().items()
        ],
    }


def show(state: dict[str, Any], console: Console) -> None:
    """Prints a summary: a row for each SNR, each metric as noisy -> denoised."""
    names = list(state["denoised"])
    title = f"{state['mixtures']} test mixtures, {state['minutes']:.1f} minutes, noisy -> denoised"
    table = Table(title=title)
    table.add_column("SNR (dB)", justify="right", no_wrap=True)
    for name in names:
        table.add_column(f"{name} ({UNITS[name]})", justify="right", no_wrap=True)
    for row in state["by_snr"]:
        table.add_row(f"{row['snr_db']:g}", *(_pair(name, row["noisy"], row["denoised"]) for name in names))
    table.add_section()
    table.add_row("all", *(_pair(name, state["noisy"], state["denoised"]) for name in names))
    gains = (
        f"{_number(name, gain[0], '+')} [{_number(name, gain[1], '+')}, {_number(name, gain[2], '+')}]"
        for name, gain in state["gain"].items()
    )
    table.add_row("gain [95 %]", *gains)
    table.add_row("made worse", *(f"{share:.0%}" for share in state["worse"].values()))
    console.print(table)
    if state["failures"]:
        console.print(
            f"{state['failures']} values could not be computed and count as the metric's worst", highlight=False
        )


def _pair(name: str, noisy: dict[str, float], denoised: dict[str, float]) -> str:
    return f"{_number(name, noisy[name])} -> {_number(name, denoised[name])}"


def _number(name: str, value: float, sign: str = "") -> str:
    return f"{value:{sign}.2f}" if name in ("pesq", "si_sdr") else f"{value:{sign}.3f}"

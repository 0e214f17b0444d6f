"""The report's plots, drawn with matplotlib."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import nan

import matplotlib
import optuna
from matplotlib.ticker import PercentFormatter
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState, create_trial

from quell.progress import Progress
from quell_tuning.formatting import title
from quell_tuning.report import formatting
from quell_tuning.report.chart import BEST, DIM, FAINT, OTHER, PRESET, RUNNING, STYLE, Chart
from quell_tuning.report.content import Content
from quell_tuning.results.curves import best_so_far, cost_point, pareto_front, scores_by_snr, timeline
from quell_tuning.results.trial_row import TrialRow, state_name

NONE_YET = "No trial is complete and feasible yet."
# PED-ANOVA compares the best SHARE of the trials with the others; Optuna advises at least ABOVE of the best.
ABOVE, SHARE = 5, 0.1
CROWD = 40  # more curves than these are drawn thinner
BARS = 16  # parameters, the most important ones


@dataclass(frozen=True)
class Plot:
    """A picture as a data URI; without one the caption is the reason."""

    name: str
    caption: str
    picture: str = ""
    description: str = ""  # the picture in words, for screen readers


def plots(content: Content, update: Progress) -> Iterator[Plot]:
    """Draws all plots."""
    draws = (cost, by_snr, learning, progress, importance)
    for index, draw in enumerate(draws):
        with matplotlib.rc_context(STYLE):
            yield draw(content)
        update(index + 1, len(draws))


def cost(content: Content) -> Plot:
    """Score against cost, the front, and the presets by name."""
    name, score = "Quality against cost", title(content.metric)
    trials = _costed(row for row in map(content.snapshot.row, content.trials) if not row.preset)
    presets = _costed(content.presets)
    best = _costed(content.leaderboard[:1])
    points = [(x, y) for x, y, _ in [*trials, *presets]]
    if not points:
        return Plot(name, NONE_YET)
    chart = Chart("multiply-accumulates per second of audio (millions)", score)
    front = pareto_front(points)
    last = (max(x for x, _ in points), front[-1][1])
    chart.axes.step(*zip(*front, last, strict=True), where="post", color=DIM, lw=1, label="front", zorder=1)
    for rows, label, colour, marker, size in (
        (trials, "trial", OTHER, "o", 22),
        (presets, "preset", PRESET, "D", 30),
        (best, f"best: {best[0][2].label}" if best else "", BEST, "*", 150),
    ):
        if rows:
            x, y, _ = zip(*rows, strict=True)
            chart.axes.scatter(
                x, y, s=size, color=colour, marker=marker, linewidths=0, label=label, zorder=2 + (rows is best)
            )
    chart.logarithmic([x for x, _ in points])
    chart.axes.margins(y=0.12)
    chart.legend()
    chart.name([(x, y, row.label) for x, y, row in presets], PRESET)
    caption = f"{len(points)} complete trials. On the line: those that no other one beats at the same cost or less."
    text = ", ".join(f"{y:.3f} at {x:.3g} million" for x, y in front)
    return Plot(name, caption, chart.picture(), f"{score} on the front, by multiply-accumulates per second: {text}")


def _costed(rows: Iterable[TrialRow]) -> list[tuple[float, float, TrialRow]]:
    """`cost_point` and row, of those that are complete and feasible."""
    return [(*point, row) for row in rows if row.complete and (point := cost_point(row.trial))]


def by_snr(content: Content) -> Plot:
    """The best trial's score at each SNR, beside the best preset's and the noisy input's."""
    name, score, best = "Quality by noise level", title(content.metric), content.best
    curves = scores_by_snr(content.snapshot)
    if best is None or "best" not in curves:
        return Plot(name, "Scores by SNR are not kept with the best trial." if best else NONE_YET)
    preset = content.rival.label if content.rival else ""
    chart = Chart("SNR of the noisy mixture (dB)", score)
    for curve, label, colour, form in (
        ("best", best.label, BEST, "o-"),
        ("preset", preset, PRESET, "D--"),
        ("noisy", "noisy input", DIM, "s:"),
    ):
        if curve in curves:
            x, y = zip(*curves[curve], strict=True)
            chart.axes.plot(x, y, form, color=colour, label=label, ms=4.5, lw=2 if colour == BEST else 1.4)
    chart.ticks([snr_db for snr_db, _ in curves["best"]])
    chart.legend()
    text = ", ".join(
        f"{formatting.number(content.metric, value)} at {formatting.decibels(snr_db)}"
        for snr_db, value in curves["best"]
    )
    caption = "Means over the validation mixtures of each SNR."
    return Plot(name, caption, chart.picture(), f"{score} of {best.label}: {text}")


def learning(content: Content) -> Plot:
    """Scores at the rungs of every trial."""
    name, score, best = "Learning curves", title(content.metric), content.best
    curves = [(trial, curve) for trial in content.trials if (curve := _curve(trial))]
    if not curves:
        return Plot(name, "No trial has reached its first rung yet.")
    chart = Chart("training audio (h)", score)
    colours = {TrialState.PRUNED: FAINT, TrialState.COMPLETE: OTHER, TrialState.RUNNING: RUNNING}
    for state, colour in colours.items():
        alike = [curve for trial, curve in curves if trial.state == state]
        if alike:
            width, label = max(0.25, min(1.0, CROWD / len(alike))), state.name.lower()
            chart.axes.plot(*_lines(alike), color=colour, lw=width, marker=".", ms=4 * width**0.5, label=label)
    of_best = [curve for trial, curve in curves if best is not None and trial.number == best.number]
    if best is not None and of_best:
        chart.axes.plot(*_lines(of_best), color=BEST, lw=2.2, marker="o", ms=4.5, label=f"best: {best.label}")
    rungs = sorted({hours for _, curve in curves for hours in curve})
    chart.logarithmic(rungs)  # rungs mostly double
    chart.ticks(rungs)
    chart.legend()
    pruned = sum(trial.state == TrialState.PRUNED for trial, _ in curves)
    caption = f"Scores at the rungs, where trials that lag are pruned: {pruned} of {len(curves)} so far."
    return Plot(name, caption, chart.picture(), f"{score} by hours of training audio, of {len(curves)} trials")


def _curve(trial: FrozenTrial) -> dict[float, float]:
    """Audio hours -> score. A study with several scores reports none: there it is the mean over a rung's clips."""
    clips = trial.user_attrs.get("clips", {}).items()
    means = {int(step): sum(scores) / len(scores) for step, scores in clips if scores}
    return {step / 3600: score for step, score in sorted((trial.intermediate_values or means).items())}


def _lines(curves: Sequence[Mapping[float, float]]) -> tuple[list[float], list[float]]:
    """x and y of all curves as one line with gaps: in SVG a fraction of the size of many lines."""
    points = [point for curve in curves for point in [*curve.items(), (nan, nan)]]
    return [x for x, _ in points], [y for _, y in points]


def progress(content: Content) -> Plot:
    """The best score so far against the worker-hours spent."""
    name, score = "Progress of the search", title(content.metric)
    ended = timeline(content.snapshot)
    steps = best_so_far(ended)
    if not steps:
        return Plot(name, NONE_YET)
    chart = Chart("worker-hours", f"best {score} so far")
    hours, values = [hours for hours, _ in steps], [value for _, value in steps]
    spent = ended[-1].hours
    chart.axes.step([*hours, spent], [*values, values[-1]], where="post", color=BEST, lw=2, label="search")
    chart.axes.plot(hours, values, "o", color=BEST, ms=4)
    preset = content.best_preset
    if preset is not None and content.metric in preset.metrics:
        bar = preset.metrics[content.metric]
        chart.axes.axhline(bar, color=PRESET, ls="--", lw=1.2, label=f"best preset: {preset.label}")
    chart.axes.set_xlim(left=0)
    chart.axes.margins(y=0.12)
    chart.legend()
    caption = f"Each dot is a new best. All workers together have worked for {formatting.duration(spent * 3600)}."
    text = ", ".join(f"{value:.3f} after {hours:.2f} h" for hours, value in steps)
    return Plot(name, caption, chart.picture(), f"Best {score}: {text}")


def importance(content: Content) -> Plot:
    """Importance of the searched parameters."""
    name = "What mattered"
    trials = [trial for trial in content.trials if state_name(trial) == "complete" and trial.params]
    if len({str(sorted(trial.params.items())) for trial in trials}) < 2:
        return Plot(name, "Needs two complete trials that differ in what is searched.")
    study = optuna.create_study(direction="maximize")  # without infeasible trials, which must not count as good
    study.add_trials(
        create_trial(params=trial.params, distributions=trial.distributions, value=trial.values[0]) for trial in trials
    )
    share = min(0.5, max(SHARE, ABOVE / len(trials)))
    shares = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=share))
    rising = sorted(shares, key=lambda parameter: shares[parameter])[-BARS:]
    chart = Chart("importance (share of all)", "")
    bars = chart.axes.barh(rising, [shares[parameter] for parameter in rising], color=BEST, height=0.7)
    chart.axes.bar_label(bars, [f"{shares[parameter]:.0%}" for parameter in rising], padding=3, fontsize=8.5)
    chart.axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    chart.axes.margins(x=0.12)
    chart.axes.grid(visible=False, axis="y")
    hint = "; with so few trials only a hint." if len(trials) * SHARE < ABOVE else "."
    caption = f"What separates the best {share:.0%} of {len(trials)} complete trials from the others (PED-ANOVA){hint}"
    text = ", ".join(f"{parameter} {shares[parameter]:.0%}" for parameter in reversed(rising))
    return Plot(name, caption, chart.picture(), f"Importance: {text}")

"""The note of a trial for optuna-dashboard: scores, cost, configuration, clips, and the commands to use it.

What a study of an older version has not stored is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from quell_tuning import formatting, markdown
from quell_tuning.formatting import COSTS, cost_number, number
from quell_tuning.markdown import escape, table
from quell_tuning.optuna_private import trial_id_of
from quell_tuning.results.costs import costs, infeasible
from quell_tuning.results.snapshot import Preset, StudySnapshot
from quell_tuning.study.parameters import configuration
from quell_tuning.trials.ranking import feasible

PICTURE = "waveforms and spectrograms of the three"


def trial_note(snapshot: StudySnapshot, trial: FrozenTrial) -> str:
    """The note, in Markdown."""
    attributes = trial.user_attrs
    configured = configuration(attributes.get("denoiser", {}), attributes.get("training", {}))
    sections = {
        "Scores": score_table(snapshot, trial),
        "Cost": cost_table(trial, snapshot.attributes["spec"].get("limits", {})),
        "Configuration": markdown.fact_table(configured),
        "Scores by SNR": snr_tables(snapshot, trial),
        "Worst clip": _worst(attributes.get("worst", {})),
        "Training": _training(snapshot, trial),
        "Export and reproduce": _commands(snapshot, trial),
        "Listen": _clips(snapshot, trial),  # last, since the dashboard puts the players below the note
    }
    preset = f", preset {attributes['preset']}" if "preset" in attributes else ""
    return markdown.page(f"Trial {trial.number} of {snapshot.name}{preset}", _verdict(snapshot, trial), sections)


def _verdict(snapshot: StudySnapshot, trial: FrozenTrial) -> str:
    """How the trial ended, and what qualifies its scores."""
    attributes, broken = trial.user_attrs, infeasible(trial)
    verdict = ""
    if trial.state == TrialState.COMPLETE:
        score = number(snapshot.metric, trial.values[0])
        gains = over(snapshot.metric, attributes.get("metrics", {}), snapshot.noisy, snapshot.rival(trial))
        verdict = f"**{formatting.title(snapshot.metric)}: {score}**{gains}."
    elif trial.state == TrialState.FAIL:
        verdict = f"**Failed**: {escape(attributes.get('failure', 'lost with its worker'))}."
    elif not broken:
        reason = f": {escape(attributes['pruned'])}" if "pruned" in attributes else ""
        verdict = f"**{trial.state.name.capitalize()}**{reason}."
    same, failures = attributes.get("same_as"), attributes.get("failures")
    remarks = [
        f"**Infeasible**: {broken}." if broken else "",
        f"Its configuration is that of trial {same}, whose results it has." if same is not None else "",
        f"{failures} values could not be computed and count as the metric's worst." if failures else "",
    ]
    return "\n\n".join(filter(None, [verdict, *remarks]))


def _clips(snapshot: StudySnapshot, trial: FrozenTrial) -> str:
    """Links to the clips and their pictures; of a trial that copied its results those of the original."""
    copied = "same_as" in trial.user_attrs and "gallery" not in trial.user_attrs
    owner = snapshot.trials[trial.user_attrs["same_as"]] if copied else trial
    shared, own = f"/artifacts/{snapshot.study_id}", f"/artifacts/{snapshot.study_id}/{trial_id_of(owner)}"
    texts = []
    for clip, denoised in zip(
        snapshot.attributes.get("showcase", ()), owner.user_attrs.get("gallery", ()), strict=False
    ):
        noisy, clean = f"[noisy]({shared}/{clip['noisy']})", f"[clean]({shared}/{clip['clean']})"
        texts.append(f"{_clip(clip)}: {noisy}, [denoised]({own}/{denoised['denoised']}), {clean}")
        texts.append(f"![{PICTURE}]({own}/{denoised['picture']})")
    return "\n\n".join(texts)


def _training(snapshot: StudySnapshot, trial: FrozenTrial) -> str:
    attributes = trial.user_attrs
    return markdown.fact_table(
        [
            ("time", f"{attributes['seconds'] / 60:.1f} min" if "seconds" in attributes else ""),
            ("training audio", _audio(trial)),
            ("seed", str(attributes.get("training", {}).get("seed", ""))),
            ("machine", ", ".join(f"{key} {value}" for key, value in attributes.get("machine", {}).items())),
            ("worker", ", process ".join(str(attributes.get("worker", "")).split(":")[:2])),
            ("hash of the study", str(snapshot.attributes.get("spec_hash", ""))),
            ("corpus", str(snapshot.attributes.get("corpus", ""))),
        ]
    )


def _commands(snapshot: StudySnapshot, trial: FrozenTrial) -> str:
    complete = trial.state == TrialState.COMPLETE
    if not complete and not trial.intermediate_values:
        return ""
    lines = [f"quell export {snapshot.name} --trial {trial.number} -o best.pt"] if complete and feasible(trial) else []
    block = markdown.code_block([*lines, f"quell reproduce {snapshot.name} {trial.number}"])
    return f"{block}\n\nThe weights of the best trials only are kept; every trial can be trained again."


def _worst(clip: dict[str, Any]) -> str:
    if not clip:
        return ""
    rows = [
        [formatting.title(name), *compared(name, clip["denoised"], clip["noisy"], {})[:3]] for name in clip["denoised"]
    ]
    return f"{_clip(clip)}\n\n{markdown.table(['', 'noisy', 'denoised', 'gain'], rows)}"


def _clip(clip: dict[str, Any]) -> str:
    return f"{escape(clip['label'])} at {clip['snr_db']:g} dB SNR"


def _audio(trial: FrozenTrial) -> str:
    """Hours of audio that the trial was trained on, and those of a full training."""
    rungs = trial.user_attrs.get("training", {}).get("rungs_audio_hours", ())
    if not rungs:
        return ""
    complete = trial.state == TrialState.COMPLETE
    lease = trial.user_attrs.get("lease", (0, 0.0))
    hours = rungs[-1] if complete else max(lease[1], max(trial.intermediate_values, default=0) / 3600)
    return f"{hours:.3g} of {rungs[-1]:g} h"


COMPARED = ("noisy", "this trial", "gain", "best preset", "gain over it")

Metrics = Mapping[str, float]


def score_table(snapshot: StudySnapshot, trial: FrozenTrial) -> str:
    """A row for each metric: means of the noisy input, the trial and the best preset, gains, and clips made worse."""
    metrics, worse = trial.user_attrs.get("metrics", {}), trial.user_attrs.get("worse", {})
    rival, noisy = snapshot.rival(trial), snapshot.noisy
    theirs = rival.metrics if rival else {}
    rows = []
    for name in by_rank(snapshot, metrics):
        share = f"{worse[name]:.0%}" if name in worse else ""
        rows.append([formatting.title(name), *compared(name, metrics, noisy, theirs), share])
    return table(["", *COMPARED, "clips made worse"], rows)


def snr_tables(snapshot: StudySnapshot, trial: FrozenTrial) -> str:
    """A table for each metric, with a row for each SNR."""
    mine, noisy = trial.user_attrs.get("by_snr", {}), snapshot.attributes.get("noisy_by_snr", {})
    rival = snapshot.rival(trial)
    theirs = rival.trial.user_attrs.get("by_snr", {}) if rival else {}
    levels = sorted(mine, key=float)
    texts = []
    for name in by_rank(snapshot, trial.user_attrs.get("metrics", {})):
        rows = [
            [f"{float(snr):g}", *compared(name, mine[snr], noisy.get(snr, {}), theirs.get(snr, {}))] for snr in levels
        ]
        if rows:
            texts.append(f"{formatting.title(name)}\n\n{table(['SNR (dB)', *COMPARED], rows)}")
    return "\n\n".join(texts)


def by_rank(snapshot: StudySnapshot, metrics: Metrics) -> list[str]:
    """Names of metrics, the study's score first."""
    return sorted(metrics, key=lambda name: name != snapshot.metric)


def compared(name: str, mine: Metrics, noisy: Metrics, rival: Metrics) -> list[str]:
    """Cells of one metric in the columns COMPARED."""
    value, before, other = (side.get(name) for side in (mine, noisy, rival))
    gains = gain(name, value, before), gain(name, value, other)
    return [number(name, before), number(name, value), gains[0], number(name, other), gains[1]]


def gain(name: str, value: float | None, reference: float | None) -> str:
    """A difference of scores with its sign; empty where a score is not known."""
    return "" if value is None or reference is None else number(name, value - reference, "+")


def over(name: str, mine: Metrics, noisy: Metrics, rival: Preset | None) -> str:
    """Text to follow a metric's value: its gains over the noisy input and the best preset."""
    sides = {"the noisy input": noisy}
    if rival is not None:
        sides[f"the best preset, {escape(rival.name)}"] = rival.metrics
    gains = {side: gain(name, mine.get(name), metrics.get(name)) for side, metrics in sides.items()}
    return "".join(f", {text} over {side}" for side, text in gains.items() if text)


def cost_table(trial: FrozenTrial, limits: Mapping[str, float | None]) -> str:
    """Each cost, its limit, and the cost as a share of the limit."""
    rows = []
    for name, value in costs(trial, limits).items():
        limit = limits.get(name)
        share = "" if value is None or limit is None else f"{value / limit:.0%}"
        bound = "" if limit is None else cost_number(name, limit)
        rows.append([COSTS[name].title, cost_number(name, value), bound, share])
    return table(["", "this trial", "limit", "share"], rows)

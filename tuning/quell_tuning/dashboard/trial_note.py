"""The note of a trial for optuna-dashboard: scores, cost, configuration, clips, and the commands to use it."""

from collections.abc import Mapping
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from quell_tuning import formatting, markdown
from quell_tuning.formatting import COSTS, cost_number, number
from quell_tuning.markdown import escape, table
from quell_tuning.optuna_private import trial_id_of
from quell_tuning.results.snapshot import StudySnapshot
from quell_tuning.results.trial_row import TrialRow, costs, gains, infeasible, trained_hours

PICTURE = "waveforms and spectrograms of the three"


def trial_note(snapshot: StudySnapshot, row: TrialRow) -> str:
    """The note, in Markdown."""
    trial = row.trial
    sections = {
        "Scores": score_table(snapshot, row),
        "Cost": cost_table(trial, snapshot.attributes["spec"].get("limits", {})),
        "Configuration": markdown.fact_table([*row.configuration.items()]),
        "Scores by SNR": snr_tables(snapshot, row),
        "Worst clip": _worst(trial.user_attrs.get("worst", {})),
        "Training": _training(snapshot, trial),
        "Export and reproduce": _commands(snapshot, row),
        "Listen": _clips(snapshot, row),  # last, since the dashboard puts the players below the note
    }
    preset = f", preset {row.preset}" if row.preset else ""
    return markdown.page(f"Trial {row.number} of {snapshot.name}{preset}", _verdict(snapshot, row), sections)


def _verdict(snapshot: StudySnapshot, row: TrialRow) -> str:
    """How the trial ended, and what qualifies its scores."""
    trial, attributes, broken = row.trial, row.trial.user_attrs, infeasible(row.trial)
    verdict = ""
    if trial.state == TrialState.COMPLETE:
        verdict = f"{headline(snapshot, row)}."
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


def _clips(snapshot: StudySnapshot, row: TrialRow) -> str:
    """Links to the clips and their pictures; of a trial that copied its results those of the original."""
    same = row.trial.user_attrs.get("same_as")
    owner = row if same is None or row.gallery else snapshot.row(snapshot.trials[same])
    shared, own = f"/artifacts/{snapshot.study_id}", f"/artifacts/{snapshot.study_id}/{trial_id_of(owner.trial)}"
    texts = []
    for clip, denoised in zip(snapshot.attributes.get("showcase", ()), owner.gallery, strict=False):
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


def _commands(snapshot: StudySnapshot, row: TrialRow) -> str:
    if row.trial.state != TrialState.COMPLETE and not row.trial.intermediate_values:
        return ""
    lines = [f"quell export {snapshot.name} --trial {row.number} -o best.pt"] if row.complete else []
    block = markdown.code_block([*lines, f"quell reproduce {snapshot.name} {row.number}"])
    return f"{block}\n\nThe weights of the best trials only are kept; every trial can be trained again."


def _worst(clip: dict[str, Any]) -> str:
    if not clip:
        return ""
    rows = [
        [formatting.title(name), *_compared(name, clip["denoised"], clip["noisy"], {})[:3]] for name in clip["denoised"]
    ]
    return f"{_clip(clip)}\n\n{markdown.table(['', 'noisy', 'denoised', 'gain'], rows)}"


def _clip(clip: dict[str, Any]) -> str:
    return f"{escape(clip['label'])} at {clip['snr_db']:g} dB SNR"


def _audio(trial: FrozenTrial) -> str:
    """Hours of audio that the trial was trained on, and those of a full training."""
    rungs = trial.user_attrs.get("training", {}).get("rungs_audio_hours", ())
    if not rungs:
        return ""
    hours = rungs[-1] if trial.state == TrialState.COMPLETE else trained_hours(trial)
    return f"{hours:.3g} of {rungs[-1]:g} h"


COMPARED = ("noisy", "this trial", "gain", "best preset", "gain over it")

Metrics = Mapping[str, float]


def headline(snapshot: StudySnapshot, row: TrialRow) -> str:
    """The study's score of a complete trial, with its gains over the noisy input and the best preset."""
    score, rival = snapshot.metric, snapshot.rival(row)
    gains = {"the noisy input": row.gain(score)}
    if rival is not None:
        gains[f"the best preset, {escape(rival.preset)}"] = row.over(rival, score)
    text = "".join(f", {number(score, gain, '+')} over {side}" for side, gain in gains.items() if gain is not None)
    return f"**{formatting.title(score)}: {number(score, row.trial.values[0])}**{text}"


def score_table(snapshot: StudySnapshot, row: TrialRow) -> str:
    """A row for each metric: means of the noisy input, the trial and the best preset, gains, and clips made worse."""
    rival = snapshot.rival(row)
    preset = rival.metrics if rival else {}
    rows = []
    for name in _score_first(snapshot, row):
        share = f"{row.worse[name]:.0%}" if name in row.worse else ""
        rows.append([formatting.title(name), *_compared(name, row.metrics, snapshot.noisy, preset), share])
    return table(["", *COMPARED, "clips made worse"], rows)


def snr_tables(snapshot: StudySnapshot, row: TrialRow) -> str:
    """A table for each metric, with a row for each SNR."""
    rival, noisy = snapshot.rival(row), snapshot.attributes.get("noisy_by_snr", {})
    preset = rival.by_snr if rival else {}
    texts = []
    for name in _score_first(snapshot, row) if row.by_snr else ():
        rows = [
            [f"{float(snr):g}", *_compared(name, row.by_snr[snr], noisy.get(snr, {}), preset.get(snr, {}))]
            for snr in sorted(row.by_snr, key=float)
        ]
        texts.append(f"{formatting.title(name)}\n\n{table(['SNR (dB)', *COMPARED], rows)}")
    return "\n\n".join(texts)


def _score_first(snapshot: StudySnapshot, row: TrialRow) -> list[str]:
    """Names of the trial's metrics, the study's score first."""
    return sorted(row.metrics, key=lambda name: name != snapshot.metric)


def _compared(name: str, trial: Metrics, noisy: Metrics, preset: Metrics) -> list[str]:
    """Cells of one metric in the columns COMPARED."""
    cells = [number(name, noisy.get(name)), number(name, trial.get(name))]
    cells += [number(name, gains(trial, noisy).get(name), "+"), number(name, preset.get(name))]
    return [*cells, number(name, gains(trial, preset).get(name), "+")]


def cost_table(trial: FrozenTrial, limits: Mapping[str, float | None]) -> str:
    """Each cost, its limit, and the cost as a share of the limit."""
    rows = []
    for name, value in costs(trial, limits).items():
        limit = limits.get(name)
        share = "" if value is None or limit is None else f"{value / limit:.0%}"
        bound = "" if limit is None else cost_number(name, limit)
        rows.append([COSTS[name].title, cost_number(name, value), bound, share])
    return table(["", "this trial", "limit", "share"], rows)

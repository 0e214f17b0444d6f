"""The note of a study for optuna-dashboard. What a study of an older version has not stored is left out."""

from collections.abc import Mapping, Sequence
from typing import Any

from quell_tuning import formatting, markdown
from quell_tuning.dashboard.trial_note import headline, score_table
from quell_tuning.formatting import COSTS, cost_number, number
from quell_tuning.markdown import escape
from quell_tuning.results.snapshot import StudySnapshot
from quell_tuning.results.trial_row import TrialRow, infeasible
from quell_tuning.study.parameters import domain
from quell_tuning.study.stored_study import SKIPPED

FRONT = 10  # trials of a front that are listed
NAMED = 5  # excluded recordings whose names are listed


def study_note(snapshot: StudySnapshot) -> str:
    """The note, in Markdown."""
    name, spec = snapshot.name, snapshot.attributes["spec"]
    trial_option = "--trial TRIAL " if len(snapshot.scores) > 1 else ""
    sections = {
        "Presets": _presets(snapshot.presets),
        "Score and budget": _budget(snapshot, spec),
        "Limits": _limits(spec.get("limits", {})),
        "Corpus": _corpus(spec.get("corpus", {}), snapshot.attributes),
        "Search": _search(spec.get("search", {})),
        "Commands": markdown.code_block(
            [
                f"quell status {name}",
                f"quell report {name} -o report.html",
                f"quell export {name} {trial_option}-o best.pt",
                "quell denoise best.pt noisy.wav -o clean.wav",
                f"quell reproduce {name} TRIAL",
            ]
        ),
    }
    return markdown.page(f"Study {name}", _best(snapshot), sections)


def _best(snapshot: StudySnapshot) -> str:
    if not snapshot.ranked:
        return "No trial is complete and feasible yet."
    if len(snapshot.scores) > 1:
        return _front(snapshot)
    best = snapshot.ranked[0]
    preset = f", preset {escape(best.preset)}" if best.preset else ""
    parts = [f"Best so far: trial {best.number}{preset}, {headline(snapshot, best)}.", score_table(snapshot, best)]
    if "confirmed" in snapshot.attributes:
        parts.append(f"Trial {snapshot.attributes['confirmed']['winner']} won over several seeds.")
    return "\n\n".join(filter(None, parts))


def _front(snapshot: StudySnapshot) -> str:
    scores, ranked = snapshot.scores, snapshot.ranked
    header = ["trial", *map(formatting.title, scores)]
    rows = [[str(row.number), *map(number, scores, row.trial.values)] for row in ranked[:FRONT]]
    first = f"; the best {FRONT} by {formatting.plain(snapshot.metric)}" if len(ranked) > FRONT else ""
    return f"{len(ranked)} trials that none beats in every score{first}:\n\n{markdown.table(header, rows)}"


def _presets(presets: Sequence[TrialRow]) -> str:
    names = list(dict.fromkeys(name for preset in presets for name in preset.metrics))
    header = ["preset", "study, trial", *map(formatting.title, names), "parameters", "M MAC/s"]
    rows, lines = [], []
    for preset in presets:
        scores = [number(name, preset.metrics.get(name)) for name in names]
        costs = [
            cost_number(name, preset.cost[name]) if name in preset.cost else "" for name in ("parameters", "macs_per_s")
        ]
        rows.append([escape(preset.preset), f"{escape(preset.study)}, {preset.number}", *scores, *costs])
        if not preset.complete:
            broken = infeasible(preset.trial)
            state = f"infeasible, {broken}" if broken else preset.trial.state.name.lower()
            lines.append(f"{escape(preset.preset)} is {state}.")
    return "\n\n".join([markdown.table(header, rows), *lines])


def _budget(snapshot: StudySnapshot, spec: Mapping[str, Any]) -> str:
    study, training, attributes = spec["study"], spec.get("training", {}), snapshot.attributes
    mixtures = f", mean over {training['validation_mixtures']} mixtures" if "validation_mixtures" in training else ""
    rungs = ", ".join(f"{hours:g}" for hours in training.get("rungs_audio_hours", ()))
    audio = f"{training['audio_hours']:g} h of audio" if "audio_hours" in training else ""
    return markdown.fact_table(
        [
            ("score", f"{' and '.join(map(formatting.title, snapshot.scores))}{mixtures}"),
            ("trials", str(attributes.get("trials", ""))),
            ("a full trial", f"{audio}, scored after {rungs} h" if audio and rungs else audio),
            ("sampler, pruner", ", ".join(study[key] for key in ("sampler", "pruner") if key in study)),
            ("seed", str(study.get("seed", ""))),
            ("hash of the study", str(attributes.get("spec_hash", ""))),
        ]
    )


def _limits(limits: Mapping[str, float | None]) -> str:
    rows = [[COSTS[name].title, cost_number(name, limit)] for name, limit in limits.items() if limit is not None]
    return markdown.table(["", "at most"], rows)


def _corpus(corpus: Mapping[str, Any], attributes: Mapping[str, Any]) -> str:
    folders = attributes.get("folders", {})
    low, high = corpus.get("snr_db", (None, None))
    facts = markdown.fact_table(
        [
            ("clean speech", str(folders.get("clean", ""))),
            ("noise", str(folders.get("noise", ""))),
            ("noisy versions", str(folders.get("noisy", ""))),
            ("room responses", str(folders.get("rooms", ""))),
            ("sample rate", f"{corpus['sample_rate']} Hz" if "sample_rate" in corpus else ""),
            ("mixtures", f"{low:g} to {high:g} dB SNR" if low is not None else ""),
            ("fingerprint", str(attributes.get("corpus", ""))),
            ("left out for errors", _named(attributes.get(SKIPPED, []))),
        ]
    )
    minutes = [
        [split, f"{split_minutes['clean']:.1f}", f"{split_minutes['noise']:.1f}"]
        for split, split_minutes in attributes.get("minutes", {}).items()
    ]
    table = markdown.table(["split", "speech (min)", "noise (min)"], minutes)
    return "\n\n".join(filter(None, [facts, table and f"Recordings by split:\n\n{table}"]))


def _named(recordings: Sequence[str]) -> str:
    first, more = escape(", ".join(recordings[:NAMED])), len(recordings) - NAMED
    return first + (f" and {more} more" if more > 0 else "")


def _search(search: Mapping[str, Any]) -> str:
    searched = {name: values for name, values in search.items() if isinstance(values, dict)}
    fixed = [f"{name} {formatting.parameter_value(value)}" for name, value in search.items() if name not in searched]
    rows = [(escape(name), domain(name, values)) for name, values in searched.items()]
    parts = [markdown.fact_table(rows), f"Fixed: {escape(', '.join(fixed))}." if fixed else ""]
    return "\n\n".join(filter(None, parts))

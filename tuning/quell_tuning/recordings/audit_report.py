"""The findings of an audit as a JSON summary and as a table."""

from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from quell.audit.corpus_audit import Audit
from quell.audit.inspection import Inspection
from quell.corpus.recordings import Recording
from quell.corpus.splits import SPLITS

LINES = 5  # printed findings per kind


def summary(audit: Audit) -> dict[str, Any]:
    """Minutes, files and groups per split, and all findings, as a JSON object."""
    rooms = len(audit.of("train", "room"))
    return {
        "files": len(audit.inspections),
        "sample_rate": audit.config.sample_rate,
        "splits": {split: _split(audit, split) for split in SPLITS},
        "errors": len(audit.errors),
        "findings": [
            {"severity": one.severity, "kind": one.kind, "recordings": list(one.names), "text": one.text}
            for one in audit.findings
        ],
    } | ({"rooms": rooms} if rooms else {})


def _split(audit: Audit, split: str) -> dict[str, Any]:
    speech, noise = audit.of(split, "clean"), audit.of(split, "noise")
    return _pairs(audit, split) | {
        "speech": _side(speech),
        "noise": _side(noise) | {"classes": sorted({recording.category for recording, _ in noise})},
    }


def _pairs(audit: Audit, split: str) -> dict[str, Any]:
    pairings = [audit.pairings[one.name] for one, _ in audit.of(split, "noisy") if one.name in audit.pairings]
    if not pairings:
        return {}
    levels = np.quantile([one.snr_db for one in pairings], (0, 0.5, 1))
    return {
        "pairs": {
            "files": len(pairings),
            "snr_db": [round(float(level), 1) for level in levels],  # lowest, median, highest
            "longest_lag_ms": round(1000 * max(abs(one.lag_s) for one in pairings), 2),
        }
    }


def _side(recordings: list[tuple[Recording, Inspection]]) -> dict[str, Any]:
    inspections = [inspection for _, inspection in recordings]
    levels = [20 * np.log10(one.rms) for one in inspections if one.rms > 0]
    return {
        "files": len(recordings),
        "minutes": round(sum(one.seconds for one in inspections) / 60, 2),
        "level_db": round(float(np.median(levels)), 1) if levels else None,  # median rms over full scale
        "rates": sorted({one.sample_rate for one in inspections}),
        "groups": len({recording.group for recording, _ in recordings}),
    }


def show(state: dict[str, Any], console: Console) -> None:
    """Prints a summary."""
    table = Table(title=f"{state['files']} recordings for {state['sample_rate']} Hz")
    for column in ("split", "speech (min)", "files", "groups", "noise (min)", "files", "groups", "classes"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for name, split in state["splits"].items():
        noise = split["noise"]
        table.add_row(name, *_cells(split["speech"]), *_cells(noise), str(len(noise["classes"])))
    console.print(table)
    for name, split in state["splits"].items():
        if "pairs" in split:
            lowest, median, highest = split["pairs"]["snr_db"]
            pairs = f"{split['pairs']['files']} pairs at {lowest:g} to {highest:g} dB SNR, median {median:g}"
            console.print(f"{name}: {pairs}; up to {split['pairs']['longest_lag_ms']:g} ms apart", highlight=False)
    if "rooms" in state:
        console.print(f"{state['rooms']} room responses for training", highlight=False)
    console.print(*lines(state), sep="\n", highlight=False, markup=False)


def _cells(side: dict[str, Any]) -> tuple[str, str, str]:
    return f"{side['minutes']:.1f}", str(side["files"]), str(side["groups"])


def lines(state: dict[str, Any]) -> list[str]:
    """The first LINES findings per kind, and the numbers of errors and warnings."""
    printed: list[str] = []
    kinds: dict[tuple[str, str], list[str]] = {}
    for finding in state["findings"]:
        kinds.setdefault((finding["severity"], finding["kind"]), []).append(finding["text"])
    for (severity, kind), texts in kinds.items():
        printed += [f"{severity}, {kind}: {text}" for text in texts[:LINES]]
        if len(texts) > LINES:
            printed.append(f"{severity}, {kind}: and {len(texts) - LINES} more; --json has all")
    warnings = len(state["findings"]) - state["errors"]
    return [*printed, f"{state['errors']} errors, {warnings} warnings"]

"""What an audit found, as a dictionary and as a table."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from quell.audit.corpus_audit import Audit
from quell.audit.inspection import Inspection
from quell.corpus.splits import SPLITS

LINES = 5  # of findings of one kind that are told one by one


def summary(audit: Audit) -> dict[str, Any]:
    """Minutes, files and groups of each split, and all findings; everything is JSON."""
    rooms = len(audit.of("train", "room"))
    return {
        "files": len(audit.recordings),
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
    pairs = _pairs(audit, split)
    return pairs | {
        "speech": _side(speech) | {"groups": len({recording.group for recording, _ in speech})},
        "noise": _side(noise)
        | {
            "groups": len({recording.group for recording, _ in noise}),
            "classes": sorted({recording.category for recording, _ in noise}),
        },
    }


def _pairs(audit: Audit, split: str) -> dict[str, Any]:
    pairings = [audit.pairings[one.name] for one, _ in audit.of(split, "noisy") if one.name in audit.pairings]
    if not pairings:
        return {}
    levels = np.quantile([one.snr_db for one in pairings], (0, 0.5, 1))
    return {
        "pairs": {
            "files": len(pairings),
            "snr_db": [round(float(level), 1) for level in levels],  # least, median, most
            "longest_lag_ms": round(1000 * max(abs(one.lag_s) for one in pairings), 2),
        }
    }


def _side(found: list[tuple[Any, Inspection]]) -> dict[str, Any]:
    inspections = [inspection for _, inspection in found]
    levels = [20 * np.log10(one.rms) for one in inspections if one.rms > 0]
    return {
        "files": len(found),
        "minutes": round(sum(one.seconds for one in inspections) / 60, 2),
        "level_db": round(float(np.median(levels)), 1) if levels else None,  # rms, median, of full scale
        "rates": sorted({one.sample_rate for one in inspections}),
    }


def show(state: dict[str, Any], console: Console) -> None:
    """Prints a summary."""
    table = Table(title=f"{state['files']} recordings for {state['sample_rate']} Hz")
    for column in ("split", "speech (min)", "files", "groups", "noise (min)", "files", "groups", "classes"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for name, split in state["splits"].items():
        speech, noise = split["speech"], split["noise"]
        cells = (*_cells(speech), *_cells(noise), str(len(noise["classes"])))
        table.add_row(name, *cells)
    console.print(table)
    for name, split in state["splits"].items():
        if "pairs" in split:
            least, median, most = split["pairs"]["snr_db"]
            said = f"{split['pairs']['files']} pairs at {least:g} to {most:g} dB SNR, median {median:g}"
            console.print(f"{name}: {said}; up to {split['pairs']['longest_lag_ms']:g} ms apart", highlight=False)
    if "rooms" in state:
        console.print(f"{state['rooms']} room responses, heard in training", highlight=False)
    for line in lines(state):
        console.print(line, highlight=False, markup=False)


def _cells(side: dict[str, Any]) -> tuple[str, str, str]:
    return f"{side['minutes']:.1f}", str(side["files"]), str(side["groups"])


def lines(state: dict[str, Any]) -> list[str]:
    """Findings, of each kind the first; then how many there are."""
    said: list[str] = []
    kinds: dict[tuple[str, str], list[str]] = {}
    for finding in state["findings"]:
        kinds.setdefault((finding["severity"], finding["kind"]), []).append(finding["text"])
    for (severity, kind), texts in kinds.items():
        said += [f"{severity}, {kind}: {text}" for text in texts[:LINES]]
        if len(texts) > LINES:
            said.append(f"{severity}, {kind}: and {len(texts) - LINES} more; --json has all")
    warnings = len(state["findings"]) - state["errors"]
    return [*said, f"{state['errors']} errors, {warnings} warnings"]

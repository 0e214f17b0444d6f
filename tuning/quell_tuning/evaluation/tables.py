"""An evaluation as tables: the first model by SNR, and a row per system."""

from typing import Any

from rich.console import Console
from rich.table import Table

from quell.audio.alignment import BIN_DB
from quell.metrics import dnsmos, intrusive
from quell_tuning.formatting import number

UNITS = intrusive.UNITS | dnsmos.UNITS
WORSE = ("stoi", "ovrl")  # the metrics, with and without clean recordings, by which a clip counts as made worse


def show(state: dict[str, Any], console: Console) -> None:
    """Prints a summary. On narrow terminals tables wrap their cells and lose no digit."""
    if state["by_snr"]:
        console.print(_by_snr(state))
    if len(state["systems"]) > 2 or not state["by_snr"]:
        console.print(_by_system(state))
    model = state["systems"][1]
    times = f"{model['rtf_new']:.3g} on new lengths, first call {model['first_call_s']:.2g} s"
    console.print(f"real-time factor of {model['system']} on one thread: {model['rtf']:.3g} ({times})", highlight=False)
    for row in state["systems"]:
        if row["failures"]:
            failures = f"{row['failures']} values could not be computed and count as the metric's worst"
            console.print(f"{row['system']}: {failures}", highlight=False)


def _by_snr(state: dict[str, Any]) -> Table:
    names = list(state["denoised"])
    measured = state["kind"] == "pairs"
    table = Table(title=f"{_description(state)}, noisy -> denoised")
    table.add_column(f"measured SNR (dB, ± {BIN_DB / 2:g})" if measured else "SNR (dB)", justify="right")
    if measured:
        table.add_column("clips", justify="right", no_wrap=True)
    for name in names:
        table.add_column(f"{name} ({UNITS[name]})", justify="right")

    def head(label: str, clips: object = "") -> list[str]:
        return [label, str(clips)] if measured else [label]

    for row in state["by_snr"]:
        scores = (_pair(name, row["noisy"], row["denoised"]) for name in names)
        table.add_row(*head(f"{row['snr_db']:g}", row["clips"]), *scores)
    table.add_section()
    scores = (_pair(name, state["noisy"], state["denoised"]) for name in names)
    table.add_row(*head("all", state["mixtures"]), *scores)
    table.add_row(*head("gain [95 %]"), *(_gain(name, gain) for name, gain in state["gain"].items()))
    table.add_row(*head("made worse"), *(f"{share:.0%}" for share in state["worse"].values()))
    return table


def _by_system(state: dict[str, Any]) -> Table:
    names = list(state["denoised"])
    worse_by = next(name for name in WORSE if name in names)
    table = Table(title=f"{_description(state)}: mean and gain over noisy [95 %]")
    table.add_column("system")
    for name in names:
        table.add_column(f"{name} ({UNITS[name]})", justify="right")
    table.add_column(f"made worse ({worse_by})", justify="right")
    table.add_column("rtf", justify="right")
    for row in state["systems"]:
        means = [number(name, row["means"][name]) for name in names]
        if "gain" not in row:
            table.add_row(row["system"], *means)
            continue
        cells = [f"{mean}\n{_gain(name, row['gain'][name])}" for name, mean in zip(names, means, strict=True)]
        table.add_row(row["system"], *cells, f"{row['worse'][worse_by]:.0%}", f"{row['rtf']:.3g}")
    return table


def _description(state: dict[str, Any]) -> str:
    clips, minutes = state["mixtures"], f"{state['minutes']:.1f} minutes"
    if state["kind"] == "recordings":
        return f"DNSMOS estimates, no clean reference: {clips} recordings, {minutes}"
    return f"{clips} {'pairs of recordings' if state['kind'] == 'pairs' else 'test mixtures'}, {minutes}"


def _pair(name: str, noisy: dict[str, float], denoised: dict[str, float]) -> str:
    return f"{number(name, noisy[name])} -> {number(name, denoised[name])}"


def _gain(name: str, gain: list[float]) -> str:
    mean, low, high = (number(name, value, "+") for value in gain)
    return f"{mean} [{low}, {high}]" if gain[1] < gain[2] else mean  # one clip has no interval

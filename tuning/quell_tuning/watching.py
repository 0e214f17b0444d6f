"""`quell status --watch`: a study, looked at until it is done."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext

import optuna
from rich.console import Console
from rich.live import Live

from quell_tuning import status
from quell_tuning.signs import Signs

PAUSE_S = 2.0


def watch(study: optuna.Study, console: Console, *, as_json: bool = False) -> None:
    """Shows a study until it is done: on a terminal redrawn at every look, elsewhere a line whenever something changed,
    of JSON if asked for."""
    signs, told = Signs(), ""
    drawn = console.is_terminal and not as_json
    with Live(console=console, auto_refresh=False) if drawn else nullcontext() as live:
        while True:
            state = status.summary(study, signs=signs)
            line = status.line(state)
            if live is not None:
                live.update(status.view(state), refresh=True)
            elif line != told:
                print(json.dumps(state) if as_json else line, flush=True)
            told = line
            if state["done"]:
                return
            time.sleep(PAUSE_S)

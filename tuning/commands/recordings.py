"""Commands about recordings: corpus check, corpus preview, corpus get."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from tuning.options import CorpusOption, JsonOption, RunsOption, StudyFile, load_spec, stderr, stdout


def check(
    study: StudyFile,
    corpus: CorpusOption = None,
    as_json: JsonOption = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Folder for histograms and a sheet of spectrograms.")
    ] = None,
    runs: RunsOption = Path("runs"),
) -> int:
    """Read all recordings and tell what is wrong with them; exit 1 on errors."""
    from quell.audit import audit
    from tuning import corpus_report, progress
    from tuning.place import Place
    from tuning.runs import Runs

    spec, console = load_spec(study), stderr()
    place = Place(Runs(runs), Runs(runs).storage_url, corpus)
    with progress.bar("reading recordings", console) as move:
        found = audit(spec.corpus_config(place.corpus_root(spec)), len(os.sched_getaffinity(0)), move)
    state = corpus_report.summary(found)
    if as_json:
        print(json.dumps(state))
    else:
        corpus_report.show(state, stdout())
    if plot is not None:
        from tuning.corpus_pictures import draw

        for path in draw(found, plot):
            console.print(path, highlight=False)
    return 1 if state["errors"] else 0


def preview(
    study: StudyFile,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the mixtures.")],
    count: Annotated[int, typer.Option("-n", "--number", min=1, help="Mixtures.")] = 12,
    corpus: CorpusOption = None,
    runs: RunsOption = Path("runs"),
) -> int:
    """Write mixtures as trainings draw them: noisy, clean and noise as WAV, with pictures."""
    from tuning import progress, quarantine
    from tuning.place import Place
    from tuning.preview import preview as write
    from tuning.runs import Runs

    spec, console = load_spec(study), stderr()
    place = Place(Runs(runs), Runs(runs).storage_url, corpus)
    data = place.open_corpus(spec, console, quarantine.stored(spec, place))
    with progress.bar("writing mixtures", console) as move:
        written = write(spec, data, count, output, move)
    for path in written:
        print(path)
    return 0

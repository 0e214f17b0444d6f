"""Commands on recordings: corpus check, corpus preview, corpus get."""

import json
from pathlib import Path
from typing import Annotated

import typer

from quell.datasets import public_corpora
from quell.processes import cores
from quell_tuning.cli import options
from quell_tuning.cli.options import load_spec, local_workspace, stderr, stdout

ASK_MB = 1000  # a larger download asks first


def check(
    study: options.StudyFile,
    corpus: options.Corpus = None,
    as_json: options.Json = False,
    plot: Annotated[
        Path | None, typer.Option(help="Folder to write histograms and a sheet of spectrograms to.")
    ] = None,
    runs: options.Runs = Path("runs"),
) -> int:
    """List broken, duplicated and leaking recordings. Reads every one; exits with 1 on errors."""
    from quell.audit.corpus_audit import audit
    from quell_tuning import progress
    from quell_tuning.recordings import audit_report

    console = stderr()
    config = local_workspace(runs, corpus).corpus_config(load_spec(study), console)
    with progress.bar("reading recordings", console) as update:
        audited = audit(config, cores(), update)
    state = audit_report.summary(audited)
    if as_json:
        print(json.dumps(state))
    else:
        audit_report.show(state, stdout())
    if plot is not None:
        from quell_tuning.recordings.audit_pictures import draw

        for path in draw(audited, plot):
            console.print(path, highlight=False)
    return 1 if state["errors"] else 0


def preview(
    study: options.StudyFile,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the mixtures.")],
    count: Annotated[int, typer.Option("-n", "--number", min=1, help="Number of mixtures.")] = 12,
    corpus: options.Corpus = None,
    runs: options.Runs = Path("runs"),
) -> int:
    """Write examples of the training mixtures. Noisy, clean and noise as WAV, with pictures."""
    from quell_tuning import progress
    from quell_tuning.recordings import exclusions
    from quell_tuning.recordings.mixture_preview import preview as write

    spec, console, place = load_spec(study), stderr(), local_workspace(runs, corpus)
    data = place.open_corpus(spec, console, exclusions.stored(spec, place))
    with progress.bar("writing mixtures", console) as update:
        paths = write(spec, data, count, output, update)
    for path in paths:
        print(path)
    return 0


def get(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"One of {', '.join(public_corpora.CORPORA)}.")],
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A new folder, or the folder of an interrupted download.")
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before downloading more than 1 GB.")] = False,
) -> int:
    """Download a public corpus. Resumes an interrupted download, verifies it and lays it out for its study."""
    from contextlib import ExitStack

    from quell_tuning import progress
    from quell_tuning.errors import UsageError

    if name not in public_corpora.CORPORA:
        raise typer.BadParameter(f"{name!r}, expected one of {', '.join(public_corpora.CORPORA)}", param_hint="NAME")
    corpus, console = public_corpora.CORPORA[name], stderr()
    if (folder / public_corpora.DONE).exists():
        raise UsageError(f"{folder}: {name} is complete there, expected a new folder; remove it to download again")
    size = "unknown size" if corpus.about_mb is None else f"about {corpus.about_mb / 1000:.1f} GB"
    console.print(f"{public_corpora.source(name)}{size} to download", highlight=False)
    if (corpus.about_mb is None or corpus.about_mb > ASK_MB) and not yes:
        if not console.is_terminal:
            raise UsageError(f"{name}: {size}, expected --yes for more than 1 GB; pass it or choose another corpus")
        if not typer.confirm("Go on?", err=True):
            return 1
    with ExitStack() as bars:
        public_corpora.get(name, folder, lambda step: bars.enter_context(progress.download(step, console)))
    print(f"{folder}: its study is studies/{corpus.study}; verify the recordings with `quell corpus check`")
    return 0

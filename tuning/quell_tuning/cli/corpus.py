"""Commands about recordings: corpus check, corpus preview, corpus get."""

import json
from pathlib import Path
from typing import Annotated

import typer

from quell.processes import cores
from quell_tuning.cli.options import CorpusOption, JsonOption, RunsOption, StudyFile, load_spec, stderr, stdout

# Those of quell.datasets.public_corpora, which is imported only when something is downloaded.
NAMES = ("librispeech-dev", "esc-50", "voicebank-demand", "ms-snsd")
ASK_MB = 1000


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
    from quell.audit.corpus_audit import audit
    from quell_tuning import progress
    from quell_tuning.recordings import audit_report
    from quell_tuning.workspace.run_folder import RunFolder
    from quell_tuning.workspace.workspace import Workspace

    spec, console = load_spec(study), stderr()
    place = Workspace(RunFolder(runs), RunFolder(runs).storage_url, corpus)
    config = place.corpus_config(spec, console)
    with progress.bar("reading recordings", console) as move:
        found = audit(config, cores(), move)
    state = audit_report.summary(found)
    if as_json:
        print(json.dumps(state))
    else:
        audit_report.show(state, stdout())
    if plot is not None:
        from quell_tuning.recordings.audit_pictures import draw

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
    from quell_tuning import progress
    from quell_tuning.recordings import exclusions
    from quell_tuning.recordings.mixture_preview import preview as write
    from quell_tuning.workspace.run_folder import RunFolder
    from quell_tuning.workspace.workspace import Workspace

    spec, console = load_spec(study), stderr()
    place = Workspace(RunFolder(runs), RunFolder(runs).storage_url, corpus)
    data = place.open_corpus(spec, console, exclusions.stored(spec, place))
    with progress.bar("writing mixtures", console) as move:
        written = write(spec, data, count, output, move)
    for path in written:
        print(path)
    return 0


def get(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"One of {', '.join(NAMES)}.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder, or that of a broken download.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before more than 1 GB.")] = False,
) -> int:
    """Download a public corpus: checked, resumed, laid out for its study."""
    from contextlib import ExitStack

    from quell.datasets import public_corpora
    from quell_tuning import progress
    from quell_tuning.errors import UsageError

    if name not in public_corpora.CORPORA:
        raise typer.BadParameter(f"{name!r}, expected one of {', '.join(public_corpora.CORPORA)}", param_hint="NAME")
    corpus, console = public_corpora.CORPORA[name], stderr()
    if (folder / public_corpora.DONE).exists():
        raise UsageError(f"{folder}: {name} is there, expected a new folder; remove it to download again")
    size = "unknown size" if corpus.about_mb is None else f"about {corpus.about_mb / 1000:.1f} GB"
    console.print(f"{public_corpora.source(name)}{size} to download", highlight=False)
    if (corpus.about_mb is None or corpus.about_mb > ASK_MB) and not yes:
        if not console.is_terminal:
            raise UsageError(f"{name}: {size}, expected --yes for more than 1 GB; say so or choose another corpus")
        if not typer.confirm("Go on?", err=True):
            return 1
    with ExitStack() as bars:
        public_corpora.get(name, folder, lambda what: bars.enter_context(progress.download(what, console)))
    print(f"{folder}: studies/{corpus.study} is made for it; `quell corpus check` tells whether all is well")
    return 0

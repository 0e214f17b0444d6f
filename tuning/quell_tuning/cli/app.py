"""The command tree of `quell`. Each command imports heavy packages inside its function."""

import sys
from typing import Annotated

import typer

from quell_tuning.cli import corpus, denoise, evaluate, export, results, search

app = typer.Typer(
    help="Find, train and ship a speech denoiser for your noise, your voices and your compute budget.",
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(requested: bool) -> None:
    if not requested:
        return
    from importlib.metadata import version
    from platform import python_version

    import torch

    from quell import __version__, processes
    from quell_tuning.workers.devices import check_devices

    print(f"quell {__version__}\nPython {python_version()}\ntorch {torch.__version__}\noptuna {version('optuna')}")
    for device in check_devices([]):
        what = f"{processes.cores()} cores" if device == "cpu" else torch.cuda.get_device_name(device)
        print(f"device {device}, {what}")
    raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the versions of quell, Python, torch and optuna, and the devices.",
        ),
    ] = False,
) -> None:
    pass  # the callback of --version prints and exits


def _group(name: str, text: str) -> typer.Typer:
    """A group of commands; its name alone prints their help."""
    group = typer.Typer(help=text, rich_markup_mode=None, invoke_without_command=True)

    @group.callback()
    def _help(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            print(context.get_help(), file=sys.stderr)
            raise typer.Exit(2)

    app.add_typer(group, name=name)
    return group


storage_app = _group("storage", "Database of the studies.")
corpus_app = _group("corpus", "Recordings: check, preview, download.")

for command in (
    search.demo,
    search.studies,
    search.tune,
    search.worker,
    results.status,
    export.reproduce,
    results.dashboard,
    results.report,
    export.export,
    denoise.denoise,
    evaluate.evaluate,
):
    app.command()(command)
storage_app.command()(search.serve)
storage_app.command()(search.upgrade)
corpus_app.command()(corpus.check)
corpus_app.command()(corpus.preview)
corpus_app.command()(corpus.get)

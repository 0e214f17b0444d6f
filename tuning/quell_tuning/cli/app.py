"""The commands of `quell`, by what they are about. Heavy imports happen inside the command that needs them."""

import typer

from quell_tuning.cli import corpus, denoise, evaluate, export, results, search

app = typer.Typer(
    help="Find, train and ship a speech denoiser for your noise, your voices and your compute budget.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
storage_app = typer.Typer(help="The database of the studies.", rich_markup_mode=None, no_args_is_help=True)
app.add_typer(storage_app, name="storage")
corpus_app = typer.Typer(help="Recordings, before anything is trained.", rich_markup_mode=None, no_args_is_help=True)
app.add_typer(corpus_app, name="corpus")


for command in (
    search.demo,
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
corpus_app.command()(corpus.check)
corpus_app.command()(corpus.preview)
corpus_app.command()(corpus.get)

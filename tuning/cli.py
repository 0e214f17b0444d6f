"""The command `quell`. Results go to stdout, logs and progress to stderr; exit 0 done, 1 failed, 2 wrong usage."""

import signal
import sys

import typer

from tuning.commands import denoiser, evaluation, search

app = typer.Typer(
    help="Find, train and ship a speech denoiser for your noise, your voices and your compute budget.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
storage_app = typer.Typer(help="The database of the studies.", rich_markup_mode=None, no_args_is_help=True)
app.add_typer(storage_app, name="storage")


for command in (
    search.demo,
    search.tune,
    search.worker,
    search.status,
    search.reproduce,
    denoiser.export,
    denoiser.denoise,
    evaluation.evaluate,
):
    app.command()(command)
storage_app.command()(search.serve)


def main() -> None:
    """Runs the command line; every expected error is one line on stderr."""
    from quell.errors import DenoiserError
    from tuning.errors import TuningError, UsageError

    # typer keeps its copy of click to itself; its public BadParameter derives from click's base of usage errors.
    usage_errors: type[Exception] = typer.BadParameter.__mro__[2]
    arguments = sys.argv[1:] or ["--help"]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaves as it does at its end; workers have their own way
    try:
        code = app(arguments, standalone_mode=False)
    except usage_errors as error:
        print(f"quell: {_one_line(error.format_message())}; see `quell --help`", file=sys.stderr)  # type: ignore[attr-defined]
        sys.exit(2)
    except (DenoiserError, TuningError) as error:
        print(f"quell: {_one_line(str(error))}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except (KeyboardInterrupt, typer.Abort):
        print("quell: interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    main()

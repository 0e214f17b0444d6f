"""The program `quell`. Results go to stdout, logs and progress to stderr.

Exit 0 done, 1 failed, 2 wrong usage, 130 or 143 interrupted.
"""

import gc
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from quell_tuning.errors import Interrupted, TuningError, UsageError

# How long a thread of torch's that waits for the others spins before it sleeps: 300 times shorter than by default. Two
# processes of two threads on two cores train 20 times faster with it, and one alone as fast (benchmarks/threads.py).
SPIN_COUNT = "1000"
AGAIN_S = 0.01  # until one who interrupts an import is listened to again


def main() -> None:
    """Runs the command line; an expected error is one line on stderr, and so is an interruption."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    _at_interruption(_leave)  # workers and their pool have their own way while they are at work
    try:
        code = _run(sys.argv[1:] or ["--help"])
    except Interrupted as left:
        _say("; ".join(filter(None, ("interrupted", left.advice))))
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        _at_interruption(signal.SIG_DFL)  # all is cleaned up; an exception would be shown while Python ends
        gc.freeze()  # Python ends in 0.2 s instead of 1.0 s where torch was imported: it looks for no cycles in it
    sys.exit(code)


def _at_interruption(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as a shell asks for what runs in the background
            signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> None:
    if _imports(frame):  # an exception in the middle of torch's makes it abort, with a page of C++ frames
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(number))
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
    else:
        raise Interrupted(128 + number)


def _imports(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _run(arguments: list[str]) -> int:
    """The exit code of a command line. Imports happen here, where they can be interrupted."""
    import typer

    from quell.errors import DenoiserError
    from quell_tuning.cli.app import app

    try:
        code = app(arguments, prog_name="quell", standalone_mode=False)
    except typer.TyperException as error:
        _say(f"{error.format_message().rstrip('.')}; see `{_command(typer.main.get_command(app), arguments)} --help`")
        return error.exit_code
    except (DenoiserError, TuningError) as error:
        _say(str(error))
        return 2 if isinstance(error, UsageError) else 1
    return code if isinstance(code, int) else 0


def _command(group: Any, arguments: list[str]) -> str:
    """The command that a command line names, such as `quell corpus check`. Not every usage error knows its own."""
    path = ["quell"]
    for word in arguments:
        if word not in getattr(group, "commands", ()):
            break
        path.append(word)
        group = group.commands[word]
    return " ".join(path)


def _say(text: str) -> None:
    print(f"quell: {' '.join(text.split())}", file=sys.stderr)


if __name__ == "__main__":
    main()

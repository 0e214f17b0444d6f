"""The program `quell`. Results go to stdout, logs and progress to stderr.

Exit 0 done, 1 failed, 2 wrong usage, 130 or 143 interrupted.
"""

import errno
import gc
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from quell_tuning.errors import Interrupted, TuningError, UsageError

# Iterations that a waiting thread of torch spins before it sleeps: a 300th of the default. Two processes of two threads
# on two cores train 20 times faster with it, and one alone as fast (benchmarks/threads.py).
SPIN_COUNT = "1000"
# What a system refuses of a path that a user gave, wherever that path is first used.
REFUSED = {
    *(errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR),
    *(errno.EISDIR, errno.ELOOP),
}
RETRY_S = 0.01  # until a signal that came during an import is raised again


def main() -> None:
    """Runs the command line; an expected error or an interruption is one line on stderr."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    _handle_signals(_interrupt)  # workers and their pool replace it while they run
    try:
        code = _run(sys.argv[1:] or ["--help"])
    except Interrupted as interruption:
        _print_error("; ".join(filter(None, ("interrupted", interruption.advice))))
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        _handle_signals(signal.SIG_DFL)  # clean-up is over; at exit Python would print an exception's traceback
        gc.freeze()  # exit takes 0.2 s instead of 1.0 s once torch is imported: no search for cycles in it
    sys.exit(code)


def _handle_signals(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # a shell ignores SIGINT for background jobs
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _importing(frame):  # an exception while torch is imported makes it abort, with a page of C++ frames
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(number))
        signal.setitimer(signal.ITIMER_REAL, RETRY_S)
    else:
        raise Interrupted(128 + number)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _run(arguments: list[str]) -> int:
    """The exit code of a command line. It imports the commands, so that imports can be interrupted."""
    import typer

    from quell.errors import DenoiserError
    from quell_tuning.cli.app import app

    try:
        code = app(arguments, prog_name="quell", standalone_mode=False)
    except typer.TyperException as error:
        command = _command(typer.main.get_command(app), arguments)
        _print_error(f"{error.format_message().rstrip('.')}; see `{command} --help`")
        return error.exit_code
    except (DenoiserError, TuningError) as error:
        _print_error(str(error))
        return 2 if isinstance(error, UsageError) else 1
    except OSError as error:
        if error.filename is None or error.errno not in REFUSED:
            raise  # a bug, or one of another package
        needed = "expected a path that can be used; check its length, its permissions and the free space"
        _print_error(f"{error.filename}: {error.strerror}, {needed}")
        return 1
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


def _print_error(text: str) -> None:
    print(f"quell: {' '.join(text.split())}", file=sys.stderr)


if __name__ == "__main__":
    main()

"""One worker process: started, started again when it dies, and stopped."""

import math
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from quell.processes import oom_kills
from quell.progress import ignore

# A worker looks for a request to stop at every step and then hands its trial back; after this it is killed.
STOP_GRACE_S = 10.0
# Deaths in a row after which a worker is given up.
DEATHS = 3
# Before a worker that died is started again; doubled with every death in a row.
BACK_OFF_S = 0.5
# Exit codes of a worker that was asked to stop; before it has imported its program the signal itself ends it.
STOPPED = (130, 143, -signal.SIGINT, -signal.SIGTERM)
LOG_TAIL_BYTES = 4_000  # enough for the last line
LESS_MEMORY = "run fewer workers, or lower batch_size, base_channels or segment_s in the study file"


class WorkerProcess:
    """A worker command that is started again, with back-off, whenever its process dies.

    Args:
        variables: all of the process's environment.
        log: gets everything that the process prints.
        lived_s: a process that lived for so long could start: its death is the first of a row. By default only the
            owner resets `deaths`, as when a trial has ended.
        tell: called with a line when the system killed the process.

    Attributes:
        deaths: in a row; a process that ends with 0, or was asked to stop, ends the row.
        exit_code: of the process before the one that runs; None for the first.
        process: None between two processes.
    """

    def __init__(
        self,
        command: Sequence[str],
        variables: Mapping[str, str],
        log: Path,
        lived_s: float = math.inf,
        tell: Callable[[str], None] = ignore,
    ) -> None:
        self.command = command
        self.variables = variables
        self.log = log
        self.lived_s = lived_s
        self.tell = tell
        self.deaths = 0
        self.exit_code: int | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._log_start = 0
        self._not_before = 0.0
        self._oom_kills: int | None = None  # in this control group, when the process began

    def alive(self) -> bool:
        """Whether the process runs; to be called every moment, since it also takes note of its end."""
        if self.process is not None and self.process.poll() is not None:
            self.exit_code, self.process = self.process.returncode, None
            lived_s = time.monotonic() - self._started
            if self.exit_code in (0, *STOPPED):
                self.deaths = 0
            else:
                self.deaths = 1 if lived_s > self.lived_s else self.deaths + 1
            self._not_before = time.monotonic() + BACK_OFF_S * 2**self.deaths
            if self.exit_code == -signal.SIGKILL:
                self.tell(f"{self._end()}; its trial goes on in another process. If this repeats, {LESS_MEMORY}")
        return self.process is not None

    def start_when_due(self) -> None:
        """Starts the process unless it runs, or died a moment ago."""
        if self.alive() or time.monotonic() < self._not_before:
            return
        with self.log.open("ab") as log:
            self._started, self._log_start, self._oom_kills = time.monotonic(), log.tell(), oom_kills()
            # A session of its own: Ctrl-C reaches this process alone, which then asks the worker to stop.
            self.process = subprocess.Popen(
                self.command,
                env=dict(self.variables),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def last_line(self) -> str:
        """What the latest process printed last."""
        with self.log.open("rb") as file:
            file.seek(max(self._log_start, self.log.stat().st_size - LOG_TAIL_BYTES))
            lines = file.read().decode(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "nothing")

    def death(self, circumstance: str) -> str:
        """How the process died, for an error."""
        deaths = f"{self._end()}, {self.deaths} deaths {circumstance}"
        advice = f"; {LESS_MEMORY}" if self.exit_code == -signal.SIGKILL else ""
        return f"{deaths}; its last line: {self.last_line()}; see {self.log}{advice}"

    def _end(self) -> str:
        """How the process ended."""
        if self.exit_code != -signal.SIGKILL:
            return f"exit code {self.exit_code}"
        kills = oom_kills()
        if kills is not None and self._oom_kills is not None and kills > self._oom_kills:
            return "killed by the system, out of memory"
        return "killed (SIGKILL), probably by the system for want of memory"


def stop(workers: Sequence[WorkerProcess]) -> None:
    """Asks all workers to stop at once; kills those that have not after STOP_GRACE_S."""
    processes = [worker.process for worker in workers if worker.process is not None]
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + STOP_GRACE_S
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

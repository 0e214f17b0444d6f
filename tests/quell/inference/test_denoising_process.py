"""A process that denoises stops at every moment, without a word of its own."""

from __future__ import annotations

import subprocess
import sys

STOPPED = """
import signal, time
from types import SimpleNamespace
from quell.inference import denoising_process

def samples():
    try:
        yield 1
    finally:
        signal.raise_signal(signal.SIGTERM)

denoising_process.begin(SimpleNamespace(state=SimpleNamespace(pid=0, busy=True)))
try:
    blocks = samples()
    next(blocks)
    del blocks  # its destructor swallows what the signal raises
    time.sleep(10)
except denoising_process._Stopped:
    raise SystemExit(7)
"""


def test_a_stop_that_arrives_while_a_generator_is_destroyed_is_not_lost_and_not_printed():
    done = subprocess.run([sys.executable, "-c", STOPPED], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")

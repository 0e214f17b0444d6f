"""A worker's name tells whose it is: this machine's, or that of another one which may have the same name."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from quell_tuning.trials import worker_id
from quell_tuning.trials.worker_id import runs_here, shown, worker_name

from quell import processes
from quell.processes import machine

NOBODY = 2**22 + 1  # above Linux's largest process id


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A system without /proc."""
    monkeypatch.setattr(processes, "BOOT", Path("/nowhere/boot_id"))
    machine.cache_clear()
    yield
    machine.cache_clear()


def test_this_process_runs_here_and_others_with_its_id_do_not():
    host, process, mark = worker_name().split(":")
    assert runs_here(worker_name()) is True
    assert runs_here(f"{host}:{process}:{machine()}.1") is False
    assert runs_here(f"{host}:{NOBODY}:{mark}") is False
    assert shown(worker_name()) == f"{socket.gethostname()}:{os.getpid()}"


def test_a_worker_on_another_machine_is_unknown_even_with_the_same_host_name():
    host, process, mark = worker_name().split(":")
    assert runs_here(f"{host}:{process}:00000000-1.{mark.rpartition('.')[2]}") is None
    assert runs_here(f"{host}:{NOBODY}:00000000-1.5") is None
    for nobody in ("", None, "gone:1:1", f"{host}:{NOBODY}:77", "host", "a:b:c:d"):
        assert runs_here(nobody) is None


def test_a_container_with_the_same_host_name_is_another_machine(tmp_path: Path):
    if shutil.which("unshare") is None or subprocess.run(["unshare", "--pid", "--fork", "true"]).returncode != 0:
        pytest.skip("needs the right to make namespaces")
    script = "from quell_tuning.trials.worker_id import worker_name; print(worker_name())"
    inside = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", script]
    name = subprocess.run(inside, capture_output=True, text=True, check=True).stdout.strip()
    assert name.startswith(f"{socket.gethostname()}:1:")
    assert runs_here(name) is None  # our process 1 is another one


def test_a_process_that_the_system_hides_is_neither_alive_nor_dead(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(worker_id, "started_at", lambda process: worker_id.HIDDEN)
    host, process, mark = worker_name().split(":")
    assert runs_here(f"{host}:{process}:{machine()}.4711") is None
    assert runs_here(f"{host}:{process}:{mark.rpartition('.')[0]}.0") is True  # without /proc nothing is hidden


HIDDEN = """
import os, sys
from quell_tuning.trials.worker_id import runs_here
os.setgid(65534)
os.setuid(65534)
assert not os.path.exists(f"/proc/{sys.argv[1].split(':')[1]}")
print(runs_here(sys.argv[1]), runs_here(sys.argv[2]))
"""


def test_another_users_process_is_unknown_where_proc_hides_it_and_dead_when_it_ended():
    mount = "mount -t proc -o hidepid=2 proc /proc"
    if (
        os.geteuid() != 0
        or not shutil.which("unshare")
        or subprocess.run(["unshare", "-m", "sh", "-c", mount]).returncode
    ):
        pytest.skip("needs the right to mount")
    host, _, mark = worker_name().split(":")
    names = [worker_name(), f"{host}:{NOBODY}:{mark}"]
    command = ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh", sys.executable, "-c", HIDDEN, *names]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "None False\n", done.stderr


@pytest.mark.usefixtures("elsewhere")
def test_without_proc_the_host_is_the_machine():
    assert machine() == ""
    assert runs_here(worker_name()) is True
    assert runs_here(f"{socket.gethostname()}:{NOBODY}:.5") is False
    assert runs_here(f"another:{NOBODY}:.5") is None

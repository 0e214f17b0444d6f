"""Runs the services of a compose file as processes, where there is no container engine: the very commands, with the
environment, folders, secrets, names and users that the file gives them, in a network and with mounts of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from namespaces import Namespace, namespace

NOBODY = "65534:65534"  # of the images that the file only names
VARIABLE = re.compile(r"\$\{(\w+)(?:(:?[-?])([^}]*))?\}")


class Unset(Exception):
    """A variable that the file asks for is not there; its message is the file's."""


def load(file: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """A compose file with its variables replaced."""

    def replaced(match: re.Match[str]) -> str:
        name, rule, text = match.groups()
        value = environment.get(name)
        if value or (value is not None and not (rule or "").startswith(":")):
            return value
        if rule and rule.endswith("?"):
            raise Unset(f"{name}: {text}")
        return text or ""

    def walk(found: Any) -> Any:
        if isinstance(found, str):
            return VARIABLE.sub(replaced, found)
        if isinstance(found, list):
            return [walk(one) for one in found]
        return {key: walk(value) for key, value in found.items()} if isinstance(found, dict) else found

    whole: dict[str, Any] = walk(yaml.safe_load(file.read_text()))
    return whole


def variables(file: Path) -> set[str]:
    """All that a compose file takes from its environment."""
    services = yaml.safe_load(file.read_text())["services"].values()
    passed = {name for one in services for name, value in one.get("environment", {}).items() if value is None}
    return passed | {match[1] for match in VARIABLE.finditer(file.read_text())}


@dataclass
class Stack:
    """Services of a file, side by side.

    Attributes:
        programs: of the images that the file only names: what stands in for `postgres`, say.
        entrypoint: of the image that the file builds.
    """

    whole: dict[str, Any]
    environment: Mapping[str, str]
    entrypoint: Sequence[str]
    path: str
    inside: Namespace
    folder: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, service: str) -> subprocess.Popen[bytes]:
        """A service's command; what it says is in a file of its name."""
        with (self.folder / f"{service}.log").open("ab") as log:
            process = subprocess.Popen(
                self.command(service),
                env=self.given(service),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def run(self, service: str, command: Sequence[str], timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Another command in a service's place."""
        return subprocess.run(
            [*self._enter(service), *command],
            env=self.given(service),
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def command(self, service: str) -> list[str]:
        what = self.whole["services"][service]
        entry = self.entrypoint if what["image"].startswith("quell:") else []
        return [*self._enter(service), *entry, *what["command"]]

    def given(self, service: str) -> dict[str, str]:
        """The environment of a container: what the file says, and nothing of ours."""
        said = self.whole["services"][service].get("environment", {})
        passed = {key: self.environment.get(key) if value is None else value for key, value in said.items()}
        return {
            "PATH": self.path,
            "HOME": "/tmp",
            **{key: str(value) for key, value in passed.items() if value is not None},
        }

    def said(self, service: str) -> str:
        return (self.folder / f"{service}.log").read_text()

    def _enter(self, service: str) -> list[str]:
        who = str(self.whole["services"][service].get("user", NOBODY)).split(":")
        return [*self.inside.enter, "setpriv", f"--reuid={who[0]}", f"--regid={who[1]}", "--clear-groups", "--"]

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def stack(
    file: Path, environment: Mapping[str, str], entrypoint: Sequence[str], path: str, folder: Path
) -> Iterator[Stack]:
    """A place for the services: volumes are folders below `folder`, services are found by their names."""
    whole = load(file, environment)
    mounts: dict[str, tuple[str, bool]] = {}
    for what in whole["services"].values():
        for volume in what.get("volumes", []):
            source, target, read_only = _volume(volume)
            if source in whole["volumes"]:
                place = folder / source
                place.mkdir(exist_ok=True)
                place.chmod(0o1777)  # as the image has it
                source = str(place)
            mounts[target] = str((file.parent / source).resolve()), read_only
    for name, secret in whole["secrets"].items():
        mounts[f"/run/secrets/{name}"] = str((file.parent / secret["file"]).resolve()), True
    hosts = folder / "hosts"
    hosts.write_text("127.0.0.1 localhost " + " ".join(whole["services"]) + "\n")
    setup = [
        "mount --make-rprivate /",
        "mount -t tmpfs tmpfs /srv",
        "mount -t tmpfs tmpfs /run",
        f"mount --bind {hosts} /etc/hosts",
    ]
    for target, (source, read_only) in sorted(mounts.items()):
        if not target.startswith(("/srv/", "/run/")):
            continue  # of an image of others
        make = f"mkdir -p {target}" if Path(source).is_dir() else f"mkdir -p $(dirname {target}) && touch {target}"
        setup.append(f"{make} && mount --bind {source} {target}")
        if read_only:
            setup.append(f"mount -o remount,bind,ro {target}")
    with namespace(*setup) as inside:
        made = Stack(whole, environment, entrypoint, path, inside, folder)
        try:
            yield made
        finally:
            made.stop()


def _volume(said: str | dict[str, Any]) -> tuple[str, str, bool]:
    """Source, target, and whether it may only be read."""
    if isinstance(said, dict):
        return said["source"], said["target"], said.get("read_only", False)
    source, target, *mode = said.split(":")
    return source, target, mode == ["ro"]


def entrypoint(dockerfile: Path) -> list[str]:
    """What the image runs, by its Dockerfile."""
    (line,) = re.findall(r"^ENTRYPOINT (.+)$", dockerfile.read_text(), re.MULTILINE)
    found: list[str] = json.loads(line)
    return found


def reachable(path: Path, user: str) -> bool:
    """Whether another user gets to what lies there."""
    command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "test", "-x", os.fspath(path)]
    return subprocess.run(command, capture_output=True).returncode == 0

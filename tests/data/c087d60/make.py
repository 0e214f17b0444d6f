"""Makes the data in this folder with the code of commit c087d60; see README.md.

    python make.py CHECKOUT

CHECKOUT is a clone of the repository at that commit, on PYTHONPATH as CHECKOUT/src:CHECKOUT.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "support"))

import compatibility as support  # noqa: E402

COMMIT = "c087d60"
STUDIES = ("tiny", "front", "interrupted")


def main(checkout: Path) -> None:
    head = subprocess.run(["git", "-C", str(checkout), "describe", "--always", "--dirty=+"], capture_output=True)
    assert head.stdout.decode().startswith(COMMIT) and b"+" not in head.stdout, head.stdout
    assert support.SEARCH == "tuning", "expected the package's name at that commit; put CHECKOUT on PYTHONPATH"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for study in STUDIES:
            shutil.copy(HERE / f"{study}.toml", folder)
        support.write_recordings(folder / "recordings")
        for study in STUDIES[:2]:
            run("tune", f"{study}.toml", "--corpus", "recordings", "--workers", "1", cwd=folder)
        interrupt(folder)
        run("export", "-o", "best.pt", "tiny", "--licence", "CC0-1.0", cwd=folder)
        number = state(folder, "front")["best"]["trial"]
        run("export", "-o", "front.onnx", "front", "--trial", str(number), "--licence", "CC0-1.0", cwd=folder)
        scrub(folder / "runs" / "quell.db")
        store(folder)
        write(HERE / "expected.json", expected(folder, checkout))


def run(*arguments: str, cwd: Path) -> str:
    done = support.quell(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def interrupt(folder: Path) -> None:
    """Tunes the study "interrupted" until its last trial is behind a rung, and asks the search to stop."""
    command = support.command_line("tune", "interrupted.toml", "--corpus", "recordings", "--workers", "1")
    with subprocess.Popen(command, cwd=folder, env=support.clean_environment()) as search:
        while not at_a_rung(folder / "runs" / "quell.db"):
            assert search.poll() is None
            time.sleep(0.02)
        search.send_signal(signal.SIGINT)
        assert search.wait(30) == 130
    found = state(folder, "interrupted")
    assert (found["ended"], found["states"].get("waiting")) == (1, 1), found["states"]


def at_a_rung(database: Path) -> bool:
    query = """
        SELECT count(*) FROM trial_intermediate_values JOIN trials USING (trial_id) JOIN studies USING (study_id)
        WHERE study_name = 'interrupted' AND number = 1
    """
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return bool(connection.execute(query).fetchone()[0])


def state(folder: Path, study: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("status", study, "--json", cwd=folder))
    return found


def scrub(database: Path) -> None:
    """Takes out what is of the machine that made the data, and makes one small file of the database."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        name = json.dumps("host:1:00000000-0.0")
        with connection:
            key = "key = 'worker' AND value_json != '\"\"'"
            connection.execute(f"UPDATE trial_user_attributes SET value_json = ? WHERE {key}", (name,))
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("VACUUM")


def store(folder: Path) -> None:
    """Copies what is kept: no logs, no decoded corpus, sounds and pictures of the best trial alone."""
    runs = HERE / "runs"
    shutil.rmtree(runs, ignore_errors=True)
    keep = ["quell.db", *(f"{study}/{kind}" for study in (*STUDIES, "tiny-confirm") for kind in ("trials",))]
    for name in [*keep, "interrupted/checkpoints"]:
        source, target = folder / "runs" / name, runs / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    best = state(folder, "tiny")["best"]["trial"]
    (runs / "artifacts").mkdir()
    for artifact in artifacts(folder / "runs" / "quell.db", best):
        shutil.copy(folder / "runs" / "artifacts" / artifact, runs / "artifacts")
    for name in ("best.pt", "best.md", "front.onnx"):
        shutil.copy(folder / name, HERE)


def artifacts(database: Path, number: int) -> Iterator[str]:
    """Names of all that a trial of the study "tiny" shows."""
    query = """
        SELECT key FROM trial_system_attributes JOIN trials USING (trial_id) JOIN studies USING (study_id)
        WHERE study_name = 'tiny' AND number = ? AND key LIKE 'artifacts:%'
    """
    with contextlib.closing(sqlite3.connect(database)) as connection:
        for (key,) in connection.execute(query, (number,)):
            yield key.removeprefix("artifacts:")


def expected(folder: Path, checkout: Path) -> dict[str, Any]:
    import optuna

    database = f"sqlite:///{folder / 'runs' / 'quell.db'}"
    states = {study: state(folder, study) for study in STUDIES}
    corpus_check = json.loads(run("corpus", "check", "tiny.toml", "--corpus", "recordings", "--json", cwd=folder))
    evaluation = ("evaluate", "best.pt", "--study", "tiny.toml", "--mixtures", "6", "--json", "--csv", "clips.csv")
    evaluated = json.loads(run(*evaluation, cwd=folder))
    stored = [optuna.load_study(study_name=name, storage=database) for name in (*STUDIES, "tiny-confirm")]
    trials = [trial for study in stored for trial in study.get_trials()]
    fingerprint = stored[0].user_attrs["corpus"]
    decoded = folder / "runs" / "corpora" / fingerprint
    return {
        "machine": machine(),
        "hashes": {path.name: support.spec_hash(path) for path in study_files(checkout)},
        "corpus": {
            "fingerprint": fingerprint,
            "index": sorted(support.key_paths(json.loads((decoded / "index.json").read_text())) - {"keys"}),
            "files": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in decoded.glob("*.int16")},
            "sets": sorted(path.name for path in decoded.glob("*.npz")),
        },
        "status": states,
        "corpus check": corpus_check,
        "evaluate": evaluated,
        "csv": (folder / "clips.csv").read_text().splitlines()[0],
        "options": helps(folder),
        "environment": {"package": names(checkout, "src", "tuning"), "deployment": names(checkout, *DEPLOYMENT)},
        "study attributes": sorted({key for study in stored for key in study.user_attrs}),
        "trial attributes": sorted({key for trial in trials for key in trial.user_attrs}),
        "reproduced": quickest(stored[0].trials),
        "metadata": metadata(folder / "best.pt"),
        "outputs": outputs(folder, checkout),
        "resumed": resumed(folder),
    }


def quickest(trials: list[Any]) -> int:
    """Number of the complete trial whose network is the smallest."""
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    return int(min(complete, key=lambda trial: trial.user_attrs["cost"]["macs_per_s"]).number)


DEPLOYMENT = ("deploy", "docker-compose.yml", "Dockerfile")


def study_files(checkout: Path) -> list[Path]:
    return [*sorted((checkout / "studies").glob("*.toml")), *(HERE / f"{study}.toml" for study in STUDIES)]


def names(checkout: Path, *places: str) -> list[str]:
    return sorted(support.environment_names(checkout / place for place in places))


def helps(folder: Path) -> dict[str, list[str]]:
    answers = support.quell_many(*(f"{command} --help" for command in support.COMMANDS), cwd=folder)
    return {command: support.options(answer.stdout) for command, answer in zip(support.COMMANDS, answers, strict=True)}


def metadata(exported: Path) -> list[str]:
    import quell

    return sorted(support.key_paths(quell.load(exported).metadata))


def outputs(folder: Path, checkout: Path) -> dict[str, dict[str, Any]]:
    """What each exported file makes of each signal, at its own rate."""
    import torch

    import quell

    torch.set_num_threads(1)
    files = support.shipped(checkout) | {name: folder / name for name in ("best.pt", "front.onnx")}
    found: dict[str, dict[str, Any]] = {}
    for name, path in files.items():
        model = quell.load(path)
        rate = model.sample_rate
        found[name] = {"sample_rate": rate} | {
            signal_name: support.record(quell.denoise(samples, rate, model))
            for signal_name, samples in support.signals(rate).items()
        }
    return found


def resumed(folder: Path) -> dict[str, float]:
    """Scores of the interrupted trial at its end, where it goes on."""
    import optuna

    run("tune", "interrupted.toml", "--corpus", "recordings", "--workers", "1", cwd=folder)
    trials = optuna.load_study(study_name="interrupted", storage=f"sqlite:///{folder / 'runs' / 'quell.db'}").trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE"]
    return dict(trials[1].user_attrs["metrics"])


def machine() -> dict[str, str]:
    import numpy
    import torch

    return {
        "processor": support.processor(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
    }


def write(path: Path, content: dict[str, Any]) -> None:
    """A line for each entry of an entry."""
    sections = []
    for key, value in content.items():
        inner = json.dumps(value)
        if isinstance(value, dict):
            lines = (f"  {json.dumps(name)}: {json.dumps(item)}" for name, item in value.items())
            inner = "{\n" + ",\n".join(lines) + "\n }"
        sections.append(f" {json.dumps(key)}: {inner}")
    path.write_text("{\n" + ",\n".join(sections) + "\n}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())

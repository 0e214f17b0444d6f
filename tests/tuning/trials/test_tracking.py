"""Trainings as runs of Weights & Biases, offline: what workers left on the disk is read back."""

import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
import soundfile
from optuna.artifacts import FileSystemArtifactStore
from optuna.trial import FrozenTrial, TrialState
from PIL import Image
from quell_tuning.errors import UsageError
from quell_tuning.trials import tracking

TRIAL: dict[str, Any] = {
    "slot": 3,
    "preset": "mask-unet",
    "denoiser": {"win_length": 512},
    "training": {"seed": 11},
    "metrics": {"pesq": 2.5, "si_sdr": 14.0},
    "worse": {"pesq": 0.25, "si_sdr": 0.0},
    "by_snr": {"-5": {"pesq": 1.5, "si_sdr": 9.0}, "20": {"pesq": 3.5, "si_sdr": 19.0}},
    "cost": {"parameters": 1000, "macs_per_s": 2e6, "latency_ms": None},
    "seconds": 12.5,
    "failures": 0,
    "gallery": [{"denoised": "denoised", "picture": "picture"}],
}
STUDY: dict[str, Any] = {
    "spec_hash": "5ec",
    "corpus": "c09",
    "noisy": {"pesq": 2.0, "si_sdr": 10.0},
    "noisy_by_snr": {"-5": {"pesq": 1.25, "si_sdr": 5.0}},
    "showcase": [{"label": "s1/a.flac + rain/b.ogg", "snr_db": -5.0, "noisy": "noisy", "clean": "clean"}],
}

# A worker in a folder. Either it is killed in its trial, or it goes on with that, ends it, and leaves another.
WORKER = """
import json, os, signal, sys, time
from pathlib import Path
import optuna
from optuna.artifacts import FileSystemArtifactStore
from quell_tuning.trials import tracking

folder, killed = Path(sys.argv[1]), sys.argv[2] == "killed"
attributes, trial = json.loads((folder / "attributes.json").read_text())
optuna.logging.set_verbosity(optuna.logging.WARNING)
study = optuna.create_study(study_name="s")
for key, value in attributes.items():
    study.set_user_attr(key, value)
first = optuna.trial.create_trial(value=14.0, user_attrs=trial)
other = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, user_attrs=trial | {"slot": 4})
tracking.POINT_S = 0.0
tracker = tracking.Tracker(study, folder / "s", FileSystemArtifactStore(folder / "artifacts"))

tracker.started(first)
for hour in (0.125, 0.25) if killed else (0.25, 0.5):
    tracker.step(hour, 1 / hour)
tracker.rung(0.25, "si_sdr", 12.5)
threads = Path("/proc/self/task").iterdir()
print(*(child for thread in threads for child in (thread / "children").read_text().split()), flush=True)
while killed:
    if max(file.stat().st_size for file in folder.rglob("*.wandb")) > 1000:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.01)
tracker.ended(first)
tracker.started(other)
tracker.step(0.125, 3.0)
tracker.close()
"""


def records(file: Path) -> Iterator[Any]:
    """What wandb wrote: LevelDB's log, in blocks of 32 kB, after 7 bytes of wandb's own."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, parts = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def items(found: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in found}


def read(file: Path) -> SimpleNamespace:
    found = SimpleNamespace(files=file.parent / "files", history=[], summary={}, exit=None, preempting=False)
    for record in records(file):
        if record.HasField("run"):
            found.run, found.config = record.run, items(record.run.config.update)
        elif record.HasField("history"):
            found.history.append(items(record.history.item))
        elif record.HasField("summary"):
            found.summary |= items(record.summary.update)
        elif record.HasField("exit"):
            found.exit = record.exit.exit_code
        found.preempting |= record.HasField("preempting")
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the workers work: a study, a trial of it, and the artifacts of both."""
    folder = tmp_path_factory.mktemp("tracked")
    (folder / "attributes.json").write_text(json.dumps([STUDY, TRIAL]))
    (folder / "artifacts").mkdir()
    for place, name in enumerate(("noisy", "denoised", "clean")):
        soundfile.write(folder / "artifacts" / name, np.full(80, place / 4), 8000, format="WAV")
    Image.new("P", (3, 2)).save(folder / "artifacts" / "picture", "PNG")
    return folder


@pytest.fixture(scope="module")
def runs(folder: Path, wait_for: Callable[..., Any]) -> list[SimpleNamespace]:
    """What was left of a killed worker's run, of it when it ended, and of one that a worker left."""
    if find_spec("wandb") is None:
        pytest.skip("needs the extra wandb")
    home = folder / "home"
    home.mkdir()
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    offline = {"HOME": str(home), "WANDB_MODE": "offline", "WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL": "0.1"}
    for how, code in (("killed", -signal.SIGKILL), ("ends", 0)):
        worker = subprocess.run(
            [sys.executable, "-W", "error", "-c", WORKER, str(folder), how],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=home,
            env=clean | offline,
        )
        assert (worker.returncode, worker.stderr) == (code, "")
        (service,) = map(int, worker.stdout.split())
        wait_for(lambda service=service: not Path(f"/proc/{service}").exists())
    assert list(home.rglob("*")) == []
    return [read(file) for file in sorted((folder / "s" / "wandb").glob("offline-run-*/*.wandb"))]


pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes through /proc")


def test_a_killed_trial_continues_in_the_same_run(runs: list[SimpleNamespace]) -> None:
    killed, ended, other = runs
    assert killed.exit is None
    assert ended.exit == 0
    assert killed.run.run_id == ended.run.run_id != other.run.run_id
    assert all(run.run.resume for run in runs)
    assert [(entry["audio_hours"], entry["train/loss"]) for entry in killed.history[:2]] == [(0.125, 8), (0.25, 4)]


def test_a_run_has_the_configuration_that_was_trained(runs: list[SimpleNamespace]) -> None:
    run = runs[1]
    assert (run.run.project, run.run.run_group, run.run.display_name) == ("quell", "s", "-1 mask-unet")
    known = {key: TRIAL[key] for key in ("slot", "preset", "denoiser", "training")}
    assert run.config == {"_wandb": {}, "study": "s", "trial": -1, "params": {}, **known}
    assert not run.run.HasField("git")


def test_curves_are_over_hours_of_audio_and_over_the_snr(runs: list[SimpleNamespace]) -> None:
    def curve(name: str, over: str) -> list[tuple[float, float]]:
        return [(entry[over], entry[name]) for entry in runs[1].history if name in entry]

    assert curve("train/loss", "audio_hours") == [(0.25, 4), (0.5, 2)]
    assert curve("rung/si_sdr_db", "audio_hours") == [(0.25, 12.5)]
    assert curve("by_snr/pesq_mos", "snr_db") == [(-5, 1.5), (20, 3.5)]
    assert curve("by_snr/noisy_si_sdr_db", "snr_db") == [(-5, 5)]


def test_the_summary_has_scores_costs_and_state(runs: list[SimpleNamespace]) -> None:
    expected = {
        "state": "complete",
        "seconds": 12.5,
        "clips_failed": 0,
        "noisy/pesq_mos": 2.0,
        "final/pesq_mos": 2.5,
        "final/si_sdr_db": 14.0,
        "worse/pesq_mos": 0.25,
        "cost/parameters": 1000,
        "cost/macs_per_s": 2e6,
    }
    summary = runs[1].summary
    assert {name: summary.get(name) for name in expected} == expected
    assert not {"cost/latency_ms", "reason"} & summary.keys()  # infinite, and none


def test_each_clip_is_logged_noisy_denoised_and_clean_with_its_picture(
    runs: list[SimpleNamespace], folder: Path
) -> None:
    (shown,) = (entry for entry in runs[1].history if "showcase/clip_1/audio" in entry)
    clips, where = shown["showcase/clip_1/audio"], "s1/a.flac + rain/b.ogg, -5 dB SNR"
    assert [clip["caption"] for clip in clips] == [f"{side}: {where}" for side in ("noisy", "denoised", "clean")]
    paths = [*(clip["path"] for clip in clips), shown["showcase/picture_1/path"]]
    sent = [(runs[1].files / path).read_bytes() for path in paths]
    assert sent == [(folder / "artifacts" / name).read_bytes() for name in ("noisy", "denoised", "clean", "picture")]


def test_a_trial_that_a_worker_hands_back_is_marked_as_preempted(runs: list[SimpleNamespace]) -> None:
    assert [run.preempting for run in runs] == [False, False, True]
    assert (runs[2].exit, runs[2].history[0]["train/loss"]) == (1, 3)


class Away(Exception):
    """What wandb raises when its server does not answer."""


class Wandb:
    """Stands for the library: what `fails` names raises that, and what is called is noted."""

    def __init__(self) -> None:
        self.fails: dict[str, Exception] = {}
        self.called: list[str] = []
        self.runs: list[dict[str, Any]] = []
        self.errors = SimpleNamespace(CommError=Away)
        self.summary = SimpleNamespace(update=lambda values: self._call("summary"))
        self.dir = "there/files"
        self.Audio = self.Image = lambda path, caption: path

    def _call(self, name: str) -> None:
        self.called.append(name)
        if name in self.fails:
            raise self.fails[name]

    def Settings(self, **settings: Any) -> dict[str, Any]:
        return settings

    def init(self, **arguments: Any) -> "Wandb":
        mode = arguments.get("mode", "online")
        self._call(mode)
        self.runs.append(arguments)
        return self

    def define_metric(self, *_: Any, **__: Any) -> None:
        pass

    def log(self, values: dict[str, Any]) -> None:
        self._call("log")

    def finish(self, exit_code: int) -> None:
        self._call("finish")

    def teardown(self) -> None:
        self._call("teardown")

    def login(self, **_: Any) -> bool:
        self._call("login")
        return False


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Wandb:
    fake = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for name in ("SILENT", "ERROR_REPORTING", "CACHE_DIR", "DATA_DIR", "MODE"):
        monkeypatch.setenv(f"WANDB_{name}", "online")
    return fake


@pytest.fixture
def tracker(wandb: Wandb, tmp_path: Path) -> tracking.Tracker:
    study = optuna.create_study(study_name="s")
    for key, value in STUDY.items():
        study.set_user_attr(key, value)
    return tracking.Tracker(study, tmp_path / "s", FileSystemArtifactStore(tmp_path))


def trial(state: TrialState = TrialState.PRUNED, **attributes: Any) -> FrozenTrial:
    return optuna.trial.create_trial(state=state, user_attrs=TRIAL | {"gallery": []} | attributes)


def track(tracker: tracking.Tracker, trial: FrozenTrial) -> None:
    tracker.started(trial)
    tracker.step(0.1, 2.0)
    tracker.rung(0.1, "stoi", 0.9)
    tracker.ended(trial)


def test_runs_of_other_trainings_have_other_names(tracker: tracking.Tracker, wandb: Wandb) -> None:
    for attributes in ({}, {}, {"slot": 4}, {"training": {"seed": 12}}):
        track(tracker, trial(**attributes))
    tracker.study.set_user_attr("spec_hash", "another")
    track(tracker, trial())
    ids = [run["id"] for run in wandb.runs]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 4


@pytest.mark.parametrize("what", ["online", "log", "summary", "finish"])
def test_an_error_of_wandb_is_one_warning_and_the_trials_continue(
    what: str, tracker: tracking.Tracker, wandb: Wandb, caplog: pytest.LogCaptureFixture
) -> None:
    wandb.fails[what] = RuntimeError("the service\nis gone")
    for _ in range(3):
        track(tracker, trial())
    tracker.close()
    assert caplog.messages == ["wandb: RuntimeError: the service is gone; trials go on without it"]
    assert wandb.called.count("online") == wandb.called.count(what) == 1
    assert wandb.called[-1] == "teardown"


def test_while_the_server_is_away_runs_are_kept_on_the_disk(
    tracker: tracking.Tracker, wandb: Wandb, caplog: pytest.LogCaptureFixture
) -> None:
    wandb.fails["online"] = Away("timed out")
    for _ in range(2):
        track(tracker, trial())
    assert caplog.messages == [f"wandb: Away: timed out; runs are kept in {tracker.folder}/wandb, for `wandb sync`"]
    assert wandb.called[:3] == ["online", "teardown", "offline"]  # the service would hold the run's id
    assert wandb.called.count("online") == 1
    assert [run["mode"] for run in wandb.runs] == ["offline"] * 2


def test_what_was_not_sent_in_time_is_named(
    tracker: tracking.Tracker, wandb: Wandb, caplog: pytest.LogCaptureFixture
) -> None:
    wandb.fails["finish"] = TimeoutError()
    track(tracker, trial())
    assert caplog.messages == ["wandb: not everything was sent in 5 s; `wandb sync there` sends it"]
    track(tracker, trial())
    assert len(wandb.runs) == 2


def test_a_store_that_fails_loses_only_the_clips(
    tracker: tracking.Tracker, wandb: Wandb, caplog: pytest.LogCaptureFixture
) -> None:
    track(tracker, trial(gallery=TRIAL["gallery"]))
    assert caplog.messages == ["wandb: trial -1 without its clips: not found"]
    assert wandb.called[-1] == "finish"


def test_without_a_training_there_is_no_run(tracker: tracking.Tracker, wandb: Wandb) -> None:
    tracker.ended(trial())
    tracker.close()
    assert wandb.called == []


def test_a_tracker_that_cannot_be_used_is_named_at_the_start(wandb: Wandb, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="--track: 'tensorboard', expected wandb; leave it out"):
        tracking.check_tracking("tensorboard")
    with pytest.raises(UsageError, match="--track wandb: no API key, expected one; run `wandb login`, or set WANDB_M"):
        tracking.check_tracking("wandb")
    wandb.fails["login"] = ValueError("WANDB_API_KEY invalid:\nit has 3 characters")
    with pytest.raises(UsageError, match="ValueError: WANDB_API_KEY invalid: it has 3 characters, expected an API key"):
        tracking.check_tracking("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    tracking.check_tracking("wandb")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match=r"expected wandb to be installed; pip install 'quell-denoiser\[wandb\]'"):
        tracking.check_tracking("wandb")

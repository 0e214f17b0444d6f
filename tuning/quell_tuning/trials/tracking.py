"""`--track wandb`: logs every training to Weights & Biases too.

wandb finds project, owner and key by itself (WANDB_PROJECT, WANDB_ENTITY, WANDB_API_KEY, WANDB_MODE, `wandb login`).
"""

import hashlib
import logging
import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.trial import FrozenTrial, TrialState

from quell_tuning.artifacts.artifact_store import ArtifactStore
from quell_tuning.errors import StorageError, UsageError

log = logging.getLogger("quell")

EXTRA = "pip install 'quell-denoiser[wandb]'"
PROJECT = "quell"
POINT_S = 5.0  # of training, whose mean loss is a point of the curve
END_S = 5.0  # to send the rest at the end of a trial, of the 10 s that a worker has to stop
SETTINGS: dict[str, Any] = {
    "silent": True,
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "x_disable_meta": True,  # command lines and paths are private
    "x_disable_machine_info": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
    "symlink": False,
    "init_timeout": 8.0,  # after which a server that does not answer is away
    "finish_timeout": END_S,
    "finish_timeout_raises": True,
    "stop_fn": lambda: None,  # else its Stop button interrupts the worker
}
# Metrics under names with their units.
NAMES = {"pesq": "pesq_mos", "si_sdr": "si_sdr_db"}
# Attributes that a trial has before it is trained.
INITIAL = ("slot", "attempt", "preset", "warm_start", "of", "repeat", "machine", "worker", "denoiser", "training")


def check_tracking(name: str | None) -> None:
    """Raises UsageError, early, for an unknown tracker, one that is not installed, or one without an API key."""
    if name is None:
        return
    if name != "wandb":
        raise UsageError(f"--track: {name!r}, expected wandb; leave it out to track nothing")
    try:
        import wandb
    except ImportError:
        raise UsageError(f"--track wandb: expected wandb to be installed; {EXTRA}") from None
    os.environ.setdefault("WANDB_SILENT", "true")
    if os.environ.get("WANDB_MODE", "online") not in ("online", "run", "shared"):
        return
    try:
        has_key = wandb.login(prompt=False, verify=False)
    except Exception as error:
        raise UsageError(f"--track wandb: {_line(error)}, expected an API key; `wandb login` asks for it") from None
    if not has_key:
        raise UsageError("--track wandb: no API key, expected one; run `wandb login`, or set WANDB_MODE=offline")


class Tracker:
    """Logs the trials that one worker trains, one at a time. All of wandb's files are in `folder`/wandb.

    An error of wandb is a warning, once, and the trials go on: logged to disk while the server is away, else untracked.
    """

    def __init__(self, study: optuna.Study, folder: Path, store: ArtifactStore) -> None:
        self.study = study
        self.folder = folder
        self.store = store
        self._run: Any = None
        self._broken = False
        self._offline = False
        self._losses: list[float] = []
        self._point = 0.0  # time.monotonic() of the last point
        files = folder / "wandb"
        files.mkdir(parents=True, exist_ok=True)
        settings = {"CACHE_DIR": f"{files}/cache", "DATA_DIR": f"{files}/data", "ERROR_REPORTING": "false"}
        for key, value in settings.items():
            os.environ.setdefault(f"WANDB_{key}", value)
        import wandb

        self._wandb: Any = wandb

    def started(self, trial: FrozenTrial) -> None:
        """Called when a trial starts to train; one that continues from its checkpoint keeps its run."""
        self._end(1)
        attributes = self.study.user_attrs
        self._losses, self._point = [], time.monotonic()
        if not self._broken:
            with self._guarded():
                self._start(trial, attributes)

    def step(self, audio_hours: float, loss: float) -> None:
        """Called after every training step."""
        self._losses.append(loss)
        if time.monotonic() - self._point >= POINT_S:
            self._curve(audio_hours)

    def rung(self, audio_hours: float, metric: str, score: float) -> None:
        """Called when the trial was scored at a rung."""
        self._curve(audio_hours)
        self._log({"audio_hours": audio_hours, f"rung/{_name(metric)}": score})

    def ended(self, trial: FrozenTrial) -> None:
        """Called when the trial has ended, with all its attributes."""
        if self._run is not None:
            attributes = self.study.user_attrs
            with self._guarded():
                self._tell(trial, attributes)
            self._end(1 if trial.state == TrialState.FAIL else 0)

    def close(self) -> None:
        """Called when the worker stops; another one continues an unfinished trial in the same run."""
        if self._run is not None:
            with self._guarded():
                self._run.mark_preempting()
            self._end(1)

    def _start(self, trial: FrozenTrial, study: dict[str, Any]) -> None:
        initial = {key: trial.user_attrs[key] for key in INITIAL if key in trial.user_attrs}
        slot, seed = initial.get("slot"), initial["training"]["seed"]  # the seed identifies the configuration
        identity = [self.study.study_name, study["spec_hash"], study["corpus"], slot, seed]
        arguments: dict[str, Any] = {
            "dir": str(self.folder),
            "project": os.environ.get("WANDB_PROJECT", PROJECT),
            "group": self.study.study_name,
            "name": f"{trial.number} {initial.get('preset', '')}".strip(),
            "id": hashlib.sha256(repr(identity).encode()).hexdigest()[:16],
            "resume": "allow",
            "reinit": "create_new",
            "config": {"study": self.study.study_name, "trial": trial.number, "params": trial.params, **initial},
            "settings": self._wandb.Settings(**SETTINGS),
        }
        if not self._offline:
            try:
                self._run = self._wandb.init(**arguments)
            except self._wandb.errors.CommError as error:
                self._offline = True
                self._wandb.teardown()  # else its service keeps the run's id
                log.warning("wandb: %s; runs are kept in %s/wandb, for `wandb sync`", _line(error), self.folder)
        if self._offline:
            self._run = self._wandb.init(**arguments, mode="offline")
        for axis, curves in (("audio_hours", ("train/*", "rung/*")), ("snr_db", ("by_snr/*",))):
            self._run.define_metric(axis, hidden=True)
            for curve in curves:
                self._run.define_metric(curve, step_metric=axis)

    def _tell(self, trial: FrozenTrial, study: dict[str, Any]) -> None:
        attributes = trial.user_attrs
        metrics = {
            "noisy": study.get("noisy", {}),
            "final": attributes.get("metrics", {}),
            "worse": attributes.get("worse", {}),
        }
        summary = {f"{kind}/{_name(name)}": value for kind, values in metrics.items() for name, value in values.items()}
        summary |= {f"cost/{name}": value for name, value in attributes.get("cost", {}).items()}
        summary |= {"state": trial.state.name.lower(), "reason": attributes.get("pruned") or attributes.get("failure")}
        summary |= {"seconds": attributes.get("seconds"), "clips_failed": attributes.get("failures")}
        self._run.summary.update({name: value for name, value in summary.items() if value is not None})
        noisy = study.get("noisy_by_snr", {})
        for snr_db, means in attributes.get("by_snr", {}).items():
            curves = {f"by_snr/{_name(name)}": value for name, value in means.items()}
            curves |= {f"by_snr/noisy_{_name(name)}": value for name, value in noisy.get(snr_db, {}).items()}
            self._run.log({"snr_db": float(snr_db), **curves})
        try:
            self._show(attributes.get("gallery", []), study.get("showcase", []))
        except (StorageError, ArtifactNotFound) as error:
            log.warning("wandb: trial %d without its clips: %s", trial.number, error)

    def _show(self, gallery: list[dict[str, Any]], showcase: list[dict[str, Any]]) -> None:
        """Sends the trial's clips, one panel for each: noisy, denoised, clean."""
        with TemporaryDirectory(dir=self.folder / "wandb") as folder:
            for number, (of_trial, of_study) in enumerate(zip(gallery, showcase, strict=False), 1):
                caption = f"{of_study['label']}, {of_study['snr_db']:g} dB SNR"
                ids = {"noisy": of_study["noisy"], "denoised": of_trial["denoised"], "clean": of_study["clean"]}
                clips = [
                    self._wandb.Audio(self._file(folder, id, "wav"), caption=f"{side}: {caption}")
                    for side, id in ids.items()
                ]
                picture = self._wandb.Image(self._file(folder, of_trial["picture"], "png"), caption=caption)
                self._run.log({f"showcase/clip_{number}": clips, f"showcase/picture_{number}": picture})

    def _file(self, folder: str, artifact: str, suffix: str) -> str:
        path = Path(folder, f"{artifact}.{suffix}")
        with closing(self.store.open_reader(artifact)) as reader:
            path.write_bytes(reader.read())
        return str(path)

    def _curve(self, audio_hours: float) -> None:
        if self._losses:
            mean = sum(self._losses) / len(self._losses)
            self._losses, self._point = [], time.monotonic()
            self._log({"audio_hours": audio_hours, "train/loss": mean})

    def _log(self, values: dict[str, float]) -> None:
        if self._run is not None:
            with self._guarded():
                self._run.log(values)

    def _end(self, code: int) -> None:
        run, self._run = self._run, None
        if run is not None:
            with self._guarded():
                try:
                    run.finish(exit_code=code)
                except TimeoutError:
                    folder = Path(run.dir).parent
                    log.warning("wandb: not everything was sent in %g s; `wandb sync %s` sends it", END_S, folder)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Turns an error of wandb inside the block into a warning, after which nothing is tracked."""
        try:
            yield
        except Exception as error:  # anything that wandb raises
            self._broken, self._run = True, None
            log.warning("wandb: %s; trials go on without it", _line(error))
            with suppress(Exception):
                self._wandb.teardown()  # else it fails at the end of the process too, with a traceback


def _name(metric: str) -> str:
    return NAMES.get(metric, metric)


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]

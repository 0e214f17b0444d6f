"""`quell status`: states, best trials and gains, workers, worker-hours, `--watch`, and the study by default."""

import io
import json
import os
import re
import socket
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial
from quell_tuning.errors import StudyNotFound
from quell_tuning.optuna_private import storage_of
from quell_tuning.recordings import exclusions
from quell_tuning.results import status
from quell_tuning.results.liveness import Liveness
from quell_tuning.results.status import line, show, summary
from quell_tuning.storage.retrying import RetryingStorage
from quell_tuning.study.stored_study import load_study
from quell_tuning.study.study_file import StudySpec
from quell_tuning.trials.lease_watch import GRACE_S
from quell_tuning.trials.worker_id import worker_name
from quell_tuning.workers.tune import Tune
from quell_tuning.workspace.run_folder import RunFolder
from quell_tuning.workspace.workspace import Workspace
from rich.console import Console

from quell.processes import machine

KEYS = {
    *("study", "score", "trials", "ended", "done", "states", "hours", "workers", "noisy", "best", "best_preset"),
    *("failures", "leaderboard"),
}
METRICS = {"metrics": {"pesq": 2.5}, "cost": {"parameters": 1000, "macs_per_s": 1e6}}


@pytest.fixture
def study() -> optuna.Study:
    study = optuna.create_study(study_name="s", direction="maximize")
    study.set_user_attr("spec", {"study": {"score": "pesq"}})
    return study


def printed(study: optuna.Study, width: int = 200) -> str:
    out = io.StringIO()
    show(summary(study), Console(file=out, width=width))
    return out.getvalue()


def scored(value: float, **more: Any) -> FrozenTrial:
    return create_trial(value=value, user_attrs={**METRICS, "metrics": {"pesq": value}, **more})


def timed(clock_s: float, state: TrialState = TrialState.COMPLETE, **attributes: Any) -> FrozenTrial:
    """A trial that ended so many seconds after it began."""
    value = 1.0 if state == TrialState.COMPLETE else None
    trial = create_trial(state=state, value=value, user_attrs=attributes)
    trial.datetime_start = datetime(2026, 11, 21)
    trial.datetime_complete = trial.datetime_start + timedelta(seconds=clock_s)
    return trial


def running(study: optuna.Study, **attributes: Any) -> optuna.Trial:
    trial = study.ask()
    for key, value in attributes.items():
        trial.set_user_attr(key, value)
    return trial


def test_every_trial_is_counted_once_and_lost_ones_are_not(study: optuna.Study) -> None:
    pruned, complete = TrialState.PRUNED, TrialState.COMPLETE
    over, under = {"parameters": 0.5}, {"parameters": -0.5}
    for state, constraints, attributes in (
        (complete, under, METRICS),
        (complete, {**under, "si_sdr": 2.0}, METRICS),
        (pruned, over, {}),
        (pruned, under, {}),
        (pruned, {}, {}),
        (TrialState.FAIL, {}, {"failure": "step 3: loss nan"}),
        (TrialState.FAIL, {}, {"lost": True}),
        (TrialState.WAITING, {}, {}),
    ):
        value = 2.5 if state == complete else None
        study.add_trial(create_trial(state=state, value=value, user_attrs=attributes, constraints=constraints))
    assert summary(study)["states"] == {"complete": 1, "infeasible": 2, "pruned": 2, "fail": 1, "waiting": 1}
    assert summary(study)["failures"] == {5: "step 3: loss nan"}
    assert [row["trial"] for row in summary(study)["leaderboard"]] == [0]
    assert "1 complete, 1 fail, 2 infeasible, 2 pruned, 1 waiting" in printed(study)


def test_a_confirmed_winner_is_named_with_its_mean(study: optuna.Study) -> None:
    for value in (2.6, 2.5):
        study.add_trial(create_trial(value=value, user_attrs=METRICS))
    assert "won over" not in printed(study)
    study.set_user_attr("confirmed", {"of": [0, 1], "winner": 1, "means": {"0": 2.41, "1": 2.52}})
    assert "trial 1 won over several seeds: mean pesq 2.520" in printed(study)


def test_the_best_trial_gains_over_noisy_input_and_best_preset(study: optuna.Study) -> None:
    study.set_user_attr("noisy", {"pesq": 1.5})
    study.add_trial(scored(2.0, preset="plain-cnn"))
    assert summary(study)["best"]["gain_over_preset"] is None
    assert "+0.50 over the noisy input, which is the preset plain-cnn" in printed(study)
    beside = optuna.create_study(study_name="s-presets", direction="maximize", storage=storage_of(study))
    beside.set_user_attr("spec", study.user_attrs["spec"])
    beside.add_trial(scored(2.25, preset="mask-unet"))
    study.add_trial(scored(2.75))
    state = summary(study)
    assert state["best"] == {
        "trial": 1,
        "value": 2.75,
        "gain_over_noisy": {"pesq": 1.25},
        "gain_over_preset": {"pesq": 0.5},
    }
    assert state["best_preset"] == {
        "preset": "mask-unet",
        "study": "s-presets",
        "trial": 0,
        "metrics": {"pesq": 2.25},
    }
    text = "best: trial 1, PESQ (MOS-LQO) 2.75, +1.25 over the noisy input, +0.50 over the best preset, mask-unet"
    assert text in printed(study)
    assert text in line(state)


def test_an_infeasible_trial_is_never_the_best(study: optuna.Study) -> None:
    study.add_trial(create_trial(value=4.0, user_attrs=METRICS, constraints={"si_sdr": 0.1}))
    assert summary(study)["best"] is None
    study.add_trial(scored(2.0))
    state = summary(study)
    assert state["best"]["trial"] == 1
    assert [row["trial"] for row in state["leaderboard"]] == [1]


def test_worker_hours_are_summed_and_those_left_follow_from_the_mean(study: optuna.Study) -> None:
    assert summary(study)["hours"] == {"spent": 0.0, "mean": None, "left": None}
    study.set_user_attr("trials", 10)
    lost = timed(3600, TrialState.FAIL, lost="its worker ended")
    resumed = timed(9999, seconds=1800.0)  # interrupted in between: the dates do not tell its time
    for trial in (resumed, timed(900, TrialState.PRUNED), timed(900, TrialState.FAIL, failure="nan"), lost):
        study.add_trial(trial)
    hours = summary(study)["hours"]
    assert hours["spent"] == pytest.approx(0.5 + 0.25 + 0.25 + 1)
    assert hours["mean"] == pytest.approx(1 / 3)
    assert hours["left"] == pytest.approx(7 / 3)
    assert "worker-hours: 2 spent by trials that ended, about 2.33 to come" in printed(study)


def test_a_study_is_done_when_all_trials_have_ended(study: optuna.Study) -> None:
    study.set_user_attr("trials", 2)
    study.add_trial(scored(2.0))
    study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={"lost": "its worker ended"}))
    assert not summary(study)["done"]
    trial = study.ask()
    assert not summary(study)["done"]
    study.tell(trial, 1.0)
    assert summary(study)["done"]
    trial = study.ask()  # beyond the trials asked for, whose number was reduced
    assert not summary(study)["done"]


def test_a_worker_of_this_machine_is_alive_while_its_process_is(study: optuna.Study) -> None:
    trial = running(study, worker=worker_name(), lease=[3, 0.5])
    trial.report(2.25, 1800)
    running(study, worker=f"{socket.gethostname()}:{os.getpid()}:{machine()}.1")  # an earlier process of this number
    running(study)
    first, second, third = summary(study)["workers"]
    assert first == {
        "worker": f"{socket.gethostname()}:{os.getpid()}",
        "trial": 0,
        "rung_hours": 0.5,
        "score": 2.25,
        "audio_hours": 0.5,
        "alive": True,
        "silent_s": None,
    }
    assert second["alive"] is False
    assert (third["worker"], third["alive"], third["audio_hours"]) == ("", None, 0.0)
    text = printed(study)
    assert re.search(rf"{os.getpid()} +0 +0.50 +0.5 +2.25 +alive", text)
    assert "unknown" in text and "gone" in text


def test_a_worker_elsewhere_is_alive_while_its_lease_moves(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    trial = running(study, worker="elsewhere:7:1", lease=[1, 0.1])
    liveness = Liveness(study)

    def look(seconds: float) -> tuple[bool | None, float | None]:
        nonlocal now
        now += seconds
        (worker,) = summary(study, liveness=liveness)["workers"]
        return worker["alive"], worker["silent_s"]

    assert look(0) == (None, None)
    assert look(4) == (None, 4.0)
    trial.set_user_attr("lease", [2, 0.2])
    assert look(2) == (True, 0.0)
    assert look(GRACE_S) == (True, GRACE_S)
    assert look(1) == (False, GRACE_S + 1)
    trial.set_user_attr("lease", [3, 0.2])
    assert look(1) == (True, 0.0)


def test_status_is_json_with_the_same_keys_for_every_study(study: optuna.Study) -> None:
    front = optuna.create_study(study_name="front", directions=["maximize", "minimize"])
    front.set_user_attr("spec", {"study": {"score": ["pesq", "macs"]}})
    front.add_trial(create_trial(values=(2.5, 2e6), user_attrs=METRICS))
    front.add_trial(create_trial(values=(2.0, 1e6), user_attrs=METRICS))
    for of in (study, front):
        state = json.loads(json.dumps(summary(of), allow_nan=False))
        assert set(state) == KEYS
        printed(of)
    assert "no trial is complete and feasible yet" in printed(study)
    assert summary(front)["best"]["trial"] == 0
    assert [row["trial"] for row in summary(front)["leaderboard"]] == [0, 1]


def test_reasons_of_failures_are_unchanged_and_of_many_only_the_latest_are_listed(study: optuna.Study) -> None:
    for number in range(13):
        reason = f"step {number}: loss nan [/bold]"
        study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={"failure": reason}))
    text = printed(study)
    assert "3 more failed before" in text
    assert "trial 12 failed: step 12: loss nan [/bold]" in text
    assert "trial 2 failed" not in text
    assert len(summary(study)["failures"]) == 13


def test_a_narrow_terminal_has_whole_numbers_without_the_configurations(study: optuna.Study) -> None:
    study.set_user_attr("noisy", {"pesq": 1.5})
    point = {f"parameter_{number}": number for number in range(9)}
    distributions = {name: optuna.distributions.IntDistribution(0, 9) for name in point}
    study.add_trial(create_trial(value=2.5, params=point, distributions=distributions, user_attrs=METRICS))
    wide, narrow = printed(study, 200), printed(study, 80)
    assert "parameter_8" in wide and "parameter_8" not in narrow
    assert "…" not in wide + narrow
    assert "2.50" in narrow and "1,000" in narrow


class Steps:
    """Changes of a study between two looks of `watch`."""

    def __init__(self, study: optuna.Study, monkeypatch: pytest.MonkeyPatch) -> None:
        study.set_user_attr("trials", 3)
        self.changes = [
            lambda: None,
            *(lambda value=value: study.add_trial(scored(value)) for value in (2.0, 1.5, 2.5)),
        ]
        monkeypatch.setattr("time.sleep", lambda seconds: self.changes.pop(0)())


def test_watching_prints_a_line_for_every_change_and_ends_with_the_study(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Steps(study, monkeypatch)
    status.watch(study, Console(file=io.StringIO()))
    lines = capsys.readouterr().out.splitlines()
    assert [text.partition(" trials")[0] for text in lines] == ["0 of 3", "1 of 3", "2 of 3", "3 of 3"]
    assert "best: trial 2, PESQ (MOS-LQO) 2.50" in lines[-1]


def test_watching_as_json_prints_a_summary_in_every_line(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Steps(study, monkeypatch)
    status.watch(study, Console(file=io.StringIO(), force_terminal=True), as_json=True)
    states = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert [state["ended"] for state in states] == [0, 1, 2, 3]
    assert [state["done"] for state in states] == [False, False, False, True]


def test_watching_on_a_terminal_redraws_at_every_look_and_leaves_the_last_view(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    Steps(study, monkeypatch)
    out = io.StringIO()
    status.watch(study, Console(file=out, force_terminal=True, width=100, height=50))
    looks = re.findall(r"study s: 3 trials asked for; (none yet|\d complete)", out.getvalue())
    assert list(dict.fromkeys(looks)) == ["none yet", "1 complete", "2 complete", "3 complete"]
    text = out.getvalue().rpartition("study s: ")[2]
    assert text.startswith("3 trials asked for; 3 complete")
    assert "2.50" in text


def test_the_study_by_default_is_the_search_that_was_tuned_last(
    storage: RetryingStorage, tiny_spec, small_corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StudyNotFound, match="no studies"):
        load_study(None, storage)

    class WithoutTrials(Tune):
        """`quell tune` that trains nothing."""

        def _run_part(self, part: str, study: optuna.Study, starts: object) -> int:
            return 0

    def tune(name: str, **parts: bool) -> None:
        spec: StudySpec = tiny_spec(study={"name": name})
        WithoutTrials(spec, tmp_path / "s.toml", place, ["cpu"], Console(file=io.StringIO())).run(**parts)

    place = Workspace(RunFolder(tmp_path / "runs"), f"sqlite:///{tmp_path / 'q.db'}", None)
    monkeypatch.setattr(Workspace, "open_corpus", lambda *_: small_corpus)
    monkeypatch.setattr(exclusions, "exclusions", lambda *_, skip_bad: frozenset())
    for name in ("first", "second", "first"):
        tune(name, presets=True)
        assert load_study(None, storage).study_name == name
    assert set(optuna.get_all_study_names(storage)) == {"first", "first-presets", "second", "second-presets"}
    assert load_study("second-presets", storage).study_name == "second-presets"
    with pytest.raises(StudyNotFound, match="'third': not in the storage"):
        load_study("third", storage)

"""What a study says of itself: every trial once, the best ones, and which study is meant when none is named."""

import io
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from rich.console import Console

from tuning.errors import StudyNotFound
from tuning.patience import PatientStorage
from tuning.place import Place
from tuning.runs import Runs
from tuning.status import show, summary
from tuning.study import load_study
from tuning.study_file import StudySpec
from tuning.tune import Tune

METRICS = {"metrics": {"pesq": 2.5}, "cost": {"parameters": 1000, "macs_per_s": 1e6}}


@pytest.fixture
def study() -> optuna.Study:
    study = optuna.create_study(study_name="s", direction="maximize")
    study.set_user_attr("spec", {"study": {"score": "pesq"}})
    return study


def printed(study: optuna.Study) -> str:
    out = io.StringIO()
    show(summary(study), Console(file=out, width=200))
    return out.getvalue()


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


def test_the_study_without_a_name_is_the_search_that_was_tuned_last(
    storage: PatientStorage, tiny_spec, small_corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StudyNotFound, match="no studies"):
        load_study(None, storage)

    class Over(Tune):
        """Everything but the trials."""

        def _pool(self, part: str, study: optuna.Study, starts: object) -> int:
            return 0

    def tune(name: str, **parts: bool) -> None:
        spec: StudySpec = tiny_spec(study={"name": name})
        Over(spec, tmp_path / "s.toml", place, ["cpu"], Console(file=io.StringIO())).run(**parts)

    place = Place(Runs(tmp_path / "runs"), f"sqlite:///{tmp_path / 'q.db'}", None)
    monkeypatch.setattr(Place, "open_corpus", lambda *_: small_corpus)
    for name in ("first", "second", "first"):
        tune(name, presets=True)
        assert load_study(None, storage).study_name == name
    assert set(optuna.get_all_study_names(storage)) == {"first", "first-presets", "second", "second-presets"}
    assert load_study("second-presets", storage).study_name == "second-presets"
    with pytest.raises(StudyNotFound, match="'third': not in the storage"):
        load_study("third", storage)

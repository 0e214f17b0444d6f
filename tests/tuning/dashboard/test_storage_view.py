"""The dashboard's answers to its page: the best trial, notes, plots, and their size."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import optuna_dashboard
import pytest
import sqlalchemy.exc
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.trial import TrialState, create_trial
from quell_tuning.dashboard import storage_view
from quell_tuning.dashboard.server import application
from quell_tuning.dashboard.storage_view import DashboardStorage
from quell_tuning.optuna_private import storage_of, study_id_of, trial_id_of
from quell_tuning.storage.retrying import RetryingStorage

FEASIBLE = {"si_sdr": -0.5, "parameters": -0.1}
INFEASIBLE = {"si_sdr": 0.5, "parameters": -0.1}


class Page:
    """Requests of a study's page."""

    def __init__(self, study: optuna.Study, folder: Path) -> None:
        assert isinstance(storage_of(study), RetryingStorage)
        self.study = study
        self.app = application(storage_of(study), FileSystemArtifactStore(folder), None, False)

    def ask(self, path: str, method: str = "GET", content: Any = None, **headers: str) -> tuple[int, Any, bytes]:
        """Status, headers and body."""
        environ: dict[str, Any] = {"PATH_INFO": path, "REQUEST_METHOD": method, "HTTP_HOST": "localhost", **headers}
        setup_testing_defaults(environ)
        if content is not None:
            environ["wsgi.input"].write(json.dumps(content).encode())
            environ |= {"CONTENT_TYPE": "application/json", "CONTENT_LENGTH": str(environ["wsgi.input"].tell())}
            environ["wsgi.input"].seek(0)
        started: list[Any] = []
        answer = self.app(
            environ, lambda status, headers, exc_info=None: started.append((int(status[:3]), dict(headers)))
        )
        body = b"".join(answer)
        if hasattr(answer, "close"):
            answer.close()
        return *started[-1], body

    def detail(self, after: int = 0) -> dict[str, Any]:
        status, _, body = self.ask(f"/api/studies/{study_id_of(self.study)}", QUERY_STRING=f"after={after}")
        assert status == 200
        return json.loads(body)  # type: ignore[no-any-return]

    def best(self) -> list[int]:
        return [trial["number"] for trial in self.detail()["best_trials"]]


@pytest.fixture
def open_page(tmp_path: Path) -> Callable[..., Page]:
    """The page of a study with trials of these values and constraints."""

    def page(*trials: tuple[list[float], dict[str, float]], directions: tuple[str, ...] = ("maximize",)) -> Page:
        storage = RetryingStorage(optuna.storages.InMemoryStorage())
        study = optuna.create_study(storage=storage, directions=directions)
        for values, constraints in trials:
            study.add_trial(create_trial(values=values, constraints=constraints))
        return Page(study, tmp_path)

    return page


@pytest.mark.parametrize(("direction", "best"), [("maximize", 1), ("minimize", 3)])
def test_the_best_trial_is_feasible(open_page: Callable[..., Page], direction: str, best: int) -> None:
    trials = [([9.0], INFEASIBLE), ([3.0], FEASIBLE), ([3.0], {}), ([1.0], FEASIBLE), ([0.0], INFEASIBLE)]
    page = open_page(*trials, directions=(direction,))
    page.study.add_trial(create_trial(state=TrialState.PRUNED))
    assert page.best() == [best]
    assert [trial["state"] for trial in page.detail()["trials"]] == ["Complete"] * 5 + ["Pruned"]
    assert page.study.best_trial.number == best


def test_without_a_feasible_trial_there_is_no_best_one(open_page: Callable[..., Page]) -> None:
    assert open_page().best() == []
    page = open_page(([9.0], INFEASIBLE), ([8.0], INFEASIBLE))
    assert page.best() == []
    page.study.add_trial(create_trial(value=1.0, constraints=FEASIBLE))
    page = Page(page.study, Path())  # a new page, since the dashboard caches trials for some seconds
    assert page.best() == [2]


@pytest.mark.parametrize("directions", [("maximize", "minimize"), ("maximize", "minimize", "maximize")])
def test_of_several_scores_the_front_is_feasible(open_page: Callable[..., Page], directions: tuple[str, ...]) -> None:
    rest = [0.0] * (len(directions) - 2)
    page = open_page(
        ([3.0, 5.0, *rest], FEASIBLE),
        ([9.0, 1.0, *rest], INFEASIBLE),  # would dominate all
        ([2.0, 4.0, *rest], {}),
        ([2.0, 5.0, *rest], FEASIBLE),  # dominated
        directions=directions,
    )
    assert page.best() == [0, 2]


def test_the_page_has_the_constraints_and_names_the_broken_ones(open_page: Callable[..., Page]) -> None:
    trials = open_page(([1.0], FEASIBLE), ([1.0], INFEASIBLE), ([1.0], {})).detail()["trials"]
    assert [trial["constraints"] for trial in trials] == [[-0.5, -0.1], [0.5, -0.1], []]
    assert [trial["user_attrs"] for trial in trials] == [[], [{"key": "infeasible", "value": "si_sdr"}], []]


def test_numbers_have_units_and_attributes_for_programs_are_not_sent(open_page: Callable[..., Page]) -> None:
    page = open_page()
    attributes = {
        "metrics": {"pesq": 2.5, "si_sdr": 15.0},
        "cost": {"parameters": 1000, "macs_per_s": 2.5e6, "latency_ms": None},
        "seconds": 61.5,
        "preset": "mask-unet",
        "clips": {"3600": [2.5] * 32},
        "denoiser": {"depth": 3},
        "lease": [3, 0.1],
    }
    page.study.set_user_attr("noisy", {"pesq": 1.9})
    page.study.set_user_attr("spec", {"study": {}})
    page.study.add_trial(create_trial(value=2.5, user_attrs=attributes))
    detail = page.detail()
    assert {pair["key"]: pair["value"] for pair in detail["trials"][0]["user_attrs"]} == {
        "PESQ (MOS-LQO)": "2.5",
        "SI-SDR (dB)": "15.0",
        "parameters": "1000.0",
        "multiply-accumulates (M MAC/s)": "2.5",
        "training (s)": "61.5",
        "preset": "mask-unet",
    }
    assert detail["user_attrs"] == [{"key": "noisy input: PESQ (MOS-LQO)", "value": "1.9"}]
    assert page.study.trials[0].user_attrs == attributes


def test_the_best_trials_have_curves_and_all_have_the_values_as_text(
    open_page: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_view, "CURVES", 2)
    page = open_page()
    for score in (1.0, 3.0, 2.0, 0.5):
        page.study.add_trial(create_trial(state=TrialState.PRUNED, intermediate_values={900: 0.25, 3600: score}))
    page.study.ask().report(0.125, 900)
    trials = page.detail()["trials"]
    assert [len(trial["intermediate_values"]) for trial in trials] == [0, 2, 2, 0, 1]
    texts = [trial["user_attrs"][0]["value"] for trial in trials]
    assert texts[1:2] + texts[-1:] == [
        "0.25 after 0.25 h of audio, 3 after 1 h of audio",
        "0.125 after 0.25 h of audio",
    ]


def test_every_trial_has_its_own_note_which_can_be_changed(open_page: Callable[..., Page]) -> None:
    page = open_page(*[([float(number)], {}) for number in range(4)])
    study, trials = page.study, page.study.trials
    long = "".join(f"{number:05d}" for number in range(2000))  # five pieces
    optuna_dashboard.save_note(study, "the study " + long)
    for trial in trials[:2]:
        for version, text in ((1, long), (2, f"trial {trial.number} " + long[:3000])):
            saved = {"body": text, "version": version}
            path = f"/api/studies/{study_id_of(study)}/{trial_id_of(trial)}/note"
            assert page.ask(path, "PUT", saved)[::2] == (200, b"{}")
            assert page.ask(path, "PUT", saved)[0] == 409
    detail = page.detail()
    assert detail["note"]["body"] == "the study " + long
    assert [trial["note"]["body"] for trial in detail["trials"]] == [
        "trial 0 " + long[:3000],
        "trial 1 " + long[:3000],
        "",
        "",
    ]


def test_a_plot_in_pieces_is_sent_as_a_whole(open_page: Callable[..., Page]) -> None:
    page = open_page()
    graph = pytest.importorskip("plotly.graph_objects")
    figure = graph.Figure(graph.Scatter(y=list(range(5000))))
    for name in ("score: PESQ", "b"):
        optuna_dashboard.save_plotly_graph_object(page.study, figure, graph_object_id=name.replace(" ", "_"))
    sent = {plot["id"]: json.loads(plot["graph_object"]) for plot in page.detail()["plotly_graph_objects"]}
    assert sent == dict.fromkeys(["score:_PESQ", "b"], json.loads(figure.to_json()))


def test_the_time_for_notes_grows_with_their_number_only(
    open_page: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lookups(count: int) -> int:
        page = open_page(*[([1.0], {})] * count)
        for trial in page.study.trials:
            for key, value in (("note_ver", 1), ("note_str:0", "a"), ("note_str:1", "b")):
                storage_of(page.study).set_study_system_attr(
                    study_id_of(page.study), f"dashboard:{trial_id_of(trial)}:{key}", value
                )
        prefixes.clear()
        assert {trial["note"]["body"] for trial in page.detail()["trials"]} == {"ab"}
        return len(prefixes)

    prefixes: list[object] = []
    prefix = optuna_dashboard._note.note_str_key_prefix
    monkeypatch.setattr(optuna_dashboard._note, "note_str_key_prefix", lambda of: prefixes.append(of) or prefix(of))
    assert lookups(80) <= 2.2 * lookups(40)


def test_a_finished_trial_is_converted_once(open_page: Callable[..., Page], monkeypatch: pytest.MonkeyPatch) -> None:
    study = open_page(([1.0], FEASIBLE), ([2.0], FEASIBLE)).study
    study.ask()
    converted: list[int] = []
    convert = storage_view._trial
    monkeypatch.setattr(storage_view, "_trial", lambda stored: converted.append(stored.number) or convert(stored))
    view = DashboardStorage(storage_of(study))
    for _ in range(3):
        view.get_all_trials(study_id_of(study), deepcopy=False)
        view.get_best_trial(study_id_of(study))
    assert [converted.count(number) for number in range(3)] == [1, 1, 3]


def test_the_page_cannot_add_trials(open_page: Callable[..., Page]) -> None:
    study = open_page(([1.0], FEASIBLE)).study
    view = DashboardStorage(storage_of(study))
    with pytest.raises(RuntimeError, match="made by `quell tune`"):
        optuna.create_study(storage=view).add_trial(view.get_all_trials(study_id_of(study))[0])


def test_large_json_is_compressed_for_clients_that_accept_it(open_page: Callable[..., Page]) -> None:
    page = open_page(*[([1.0], FEASIBLE)] * 50)
    path = f"/api/studies/{study_id_of(page.study)}"
    _, headers, body = page.ask(path, HTTP_ACCEPT_ENCODING="gzip, deflate, br")
    assert (headers["Content-Encoding"], headers["Content-Length"]) == ("gzip", str(len(body)))
    assert json.loads(gzip.decompress(body)) == page.detail()
    assert "Content-Encoding" not in page.ask("/api/studies", HTTP_ACCEPT_ENCODING="gzip")[1]


def test_a_request_without_accept_encoding_is_answered(open_page: Callable[..., Page]) -> None:
    assert [open_page().ask(path)[0] for path in ("/static/bundle.js", "/favicon.ico")] == [200, 200]


def test_a_database_that_does_not_answer_gives_503(
    open_page: Callable[..., Page], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unavailable(*_: Any) -> Any:
        raise sqlalchemy.exc.OperationalError("SELECT 1", {}, Exception("connection refused"))

    page = open_page(([1.0], FEASIBLE))
    monkeypatch.setattr(storage_view, "WAIT_S", 0.05)
    paths = [
        "/api/studies",
        f"/api/studies/{study_id_of(page.study)}",
        f"/csv/{study_id_of(page.study)}",
        "/artifacts/0/0a",
    ]
    for name in ("get_all_studies", "get_study_name_from_id", "get_study_system_attrs"):
        monkeypatch.setattr(storage_of(page.study).backend, name, unavailable)
    for path in paths:
        status, headers, body = page.ask(path)
        assert (status, headers["Retry-After"]) == (503, "5")
        assert b"the study's database does not answer" in body
    assert "connection refused" in caplog.text
    monkeypatch.undo()
    assert [page.ask(path)[0] for path in paths] == [200, 200, 200, 404]


def test_a_study_is_deleted_with_the_artifacts_that_its_trials_share(
    open_page: Callable[..., Page], tmp_path: Path
) -> None:
    page = open_page()
    (tmp_path / "clean.wav").write_bytes(b"sound")
    shared = upload_artifact(
        artifact_store=FileSystemArtifactStore(tmp_path),
        file_path=str(tmp_path / "clean.wav"),
        study_or_trial=page.study,
    )
    named = storage_of(page.study).get_study_system_attrs(study_id_of(page.study))
    for _ in range(2):
        page.study.add_trial(create_trial(value=1.0, system_attrs=named))
    assert page.ask(f"/api/studies/{study_id_of(page.study)}", "DELETE", content={})[0] == 200
    assert not (tmp_path / shared).exists()
    assert storage_of(page.study).get_all_studies() == []

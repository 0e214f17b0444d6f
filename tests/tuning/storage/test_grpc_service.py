"""What the proxy makes of Optuna's service: reads that callers share, and the same answers."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest

pytest.importorskip("grpc")

from optuna.storages._grpc.auto_generated.api_pb2 import GetTrialsReply, GetTrialsRequest
from optuna.storages._grpc.servicer import OptunaStorageProxyService
from quell_tuning import environment
from quell_tuning.errors import StorageError
from quell_tuning.optuna_private import study_id_of, trial_id_of
from quell_tuning.storage import grpc_service
from quell_tuning.storage.backends import open_storage
from quell_tuning.storage.grpc_service import CoalescedReads, SharedReadService
from quell_tuning.storage.retrying import RetryingStorage
from quell_tuning.storage.urls import proxy_token


class Slow:
    """A read that ends when it is told to; answers with its number."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.reads = 0

    def __call__(self, study_id: int) -> int:
        self.reads += 1
        number = self.reads
        self.begun.release()
        assert self.go.acquire(timeout=10)
        if study_id == 404:
            raise KeyError(study_id)
        return number


@pytest.fixture
def slow() -> Slow:
    return Slow()


def test_calls_that_arrive_during_a_read_share_the_next_one(slow: Slow, wait_for: Callable[..., Any]) -> None:
    together = CoalescedReads(slow)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(together.get, 1)
        assert slow.begun.acquire(timeout=10)
        late = [pool.submit(together.get, 1) for _ in range(7)]
        wait_for(lambda: pool._work_queue.empty(), 10)
        slow.go.release()
        assert first.result(10) == 1
        slow.go.release()
        # Of those, some may have come so late that a third read was needed; none has an answer from before it asked.
        slow.go.release()
        assert {answer.result(10) for answer in late} <= {2, 3}
    assert slow.reads <= 3


def test_no_call_is_answered_from_a_read_that_began_before_it(slow: Slow) -> None:
    together = CoalescedReads(slow)
    slow.go.release(100)
    assert [together.get(1) for _ in range(5)] == [1, 2, 3, 4, 5]


def test_studies_are_read_separately_and_an_error_goes_to_the_calls_for_its_study(slow: Slow) -> None:
    together = CoalescedReads(slow)
    slow.go.release(100)
    assert (together.get(1), together.get(2)) == (1, 2)
    for _ in range(2):
        with pytest.raises(KeyError):
            together.get(404)
    assert together.get(1) == 5


def filled(storage: RetryingStorage) -> optuna.Study:
    study = optuna.create_study(study_name="s", storage=storage)
    for number in range(4):
        trial = study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
        trial.set_user_attr("list", [number, None, "ü"])
        trial.report(float("nan") if number == 1 else 0.5, step=1)
        if number < 3:
            study.tell(trial, number) if number else study.tell(trial, state=optuna.trial.TrialState.FAIL)
    study.enqueue_trial({"x": 0.25})
    return study


@pytest.mark.parametrize(("after", "included"), [(-1, []), (2, []), (3, [1, 4]), (99, [5]), (99, [])])
def test_replies_hold_the_same_trials_as_optunas(storage: RetryingStorage, after: int, included: list[int]) -> None:
    study = filled(storage)
    service, plain = SharedReadService(storage.backend), OptunaStorageProxyService(storage.backend)
    request = GetTrialsRequest(study_id=study_id_of(study), trial_id_greater_than=after, included_trial_ids=included)
    for _ in range(2):  # the second time from what was kept
        written = service.GetTrials(request, None)
        assert GetTrialsReply.FromString(written) == plain.GetTrials(request, None)


def test_a_later_read_has_the_changes(storage: RetryingStorage) -> None:
    study = filled(storage)
    service = SharedReadService(storage.backend)
    request = GetTrialsRequest(study_id=study_id_of(study), trial_id_greater_than=-1)

    def asked() -> dict[int, Any]:
        return {trial.number: trial for trial in GetTrialsReply.FromString(service.GetTrials(request, None)).trials}

    asked()
    running = next(trial for trial in study.trials if trial.state.name == "RUNNING")
    storage.set_trial_user_attr(trial_id_of(running), "lease", [1, 0.5])
    assert asked()[running.number].user_attributes["lease"] == "[1, 0.5]"
    storage.set_trial_state_values(trial_id_of(running), optuna.trial.TrialState.COMPLETE, [7.0])
    assert list(asked()[running.number].values) == [7.0]


def test_ended_trials_are_serialised_once(storage: RetryingStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    study = filled(storage)
    written: list[int] = []
    inner = grpc_service._to_proto_trial
    monkeypatch.setattr(grpc_service, "_to_proto_trial", lambda trial: written.append(trial.number) or inner(trial))
    service = SharedReadService(storage.backend)
    for _ in range(3):
        service.GetTrials(GetTrialsRequest(study_id=study_id_of(study), trial_id_greater_than=-1), None)
    ended = [trial.number for trial in study.trials if trial.state.is_finished()]
    assert [written.count(number) for number in ended] == [1] * len(ended)


def test_an_unknown_study_is_not_found(storage: RetryingStorage) -> None:
    class Aborted(Exception):
        pass

    def abort(code: Any, details: str) -> None:
        raise Aborted(code.name)

    with pytest.raises(Aborted, match="NOT_FOUND"):
        SharedReadService(storage.backend).GetTrials(GetTrialsRequest(study_id=77), SimpleNamespace(abort=abort))


@pytest.mark.parametrize(("given", "found"), [("secret", None), ("wrong", "another token"), (None, "no token")])
def test_a_proxy_with_a_token_serves_only_who_sends_it(
    storage: RetryingStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, found: str | None
) -> None:
    server = grpc_service.make_server(storage.backend, storage.check, shared=False, token="secret")
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    url = f"grpc://127.0.0.1:{port}"
    monkeypatch.delenv(environment.STORAGE_TOKEN_FILE.name, raising=False)
    if given is not None:
        (tmp_path / "token").write_text(f"{given}\n")
        monkeypatch.setenv(environment.STORAGE_TOKEN_FILE.name, str(tmp_path / "token"))
    try:
        if found is None:
            client = open_storage(url)
            study = optuna.create_study(study_name="mine", storage=client)
            study.tell(study.ask(), 1.0)
            assert [trial.value for trial in study.trials] == [1.0]
            client.close()
        else:
            needed = "expected the token of the proxy; give its file as QUELL_STORAGE_TOKEN_FILE"
            with pytest.raises(StorageError, match=f"^{url}: {found}, {needed}$"):
                open_storage(url)
            assert storage.get_all_studies() == []
    finally:
        server.stop(None)


def test_a_token_is_one_word_of_ascii(tmp_path: Path) -> None:
    file = tmp_path / "token"
    for text, problem in (("", "0 words, expected one, the token"), ("a b", "2 words"), ("sésame", "not ASCII")):
        file.write_text(text)
        with pytest.raises(StorageError, match=f"^{file}: {problem}"):
            proxy_token(file)
    file.write_text("secret\n")
    assert proxy_token(file) == "secret"

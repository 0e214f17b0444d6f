"""Optuna's gRPC service, with reads that callers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any, Generic, TypeVar

import grpc
from optuna.storages import BaseStorage
from optuna.storages._grpc.auto_generated.api_pb2 import GetTrialsReply
from optuna.storages._grpc.auto_generated.api_pb2_grpc import add_StorageServiceServicer_to_server
from optuna.storages._grpc.servicer import OptunaStorageProxyService, _to_proto_trial
from optuna.trial import FrozenTrial

from quell_tuning.optuna_private import trial_id_of
from quell_tuning.storage.retrying import unreachable

THREADS = 32  # calls served at once; most of them wait for the database or for one another

T = TypeVar("T")


class CoalescedReads(Generic[T]):
    """One read at a time, on behalf of all who came before it began: each answer is as fresh as one of one's own."""

    def __init__(self, read: Callable[[int], T]) -> None:
        self._read = read
        self._next: dict[int, Future[T]] = {}  # of each study; takes in whoever comes
        self._lock = Lock()
        self._turn = Lock()

    def get(self, study_id: int) -> T:
        with self._lock:
            first = study_id not in self._next
            answer = self._next.setdefault(study_id, Future())
        if first:
            with self._turn:
                with self._lock:
                    del self._next[study_id]
                try:
                    answer.set_result(self._read(study_id))
                except BaseException as error:
                    answer.set_exception(error)
        return answer.result()


class TrialsSnapshot:
    """A study's trials at one moment, each written down when somebody first needs it.

    Args:
        ended: trials that have ended, which are for good, and what was written of them.
    """

    def __init__(self, trials: Sequence[FrozenTrial], ended: dict[int, tuple[FrozenTrial, bytes]]) -> None:
        self.trials = trials
        self._ended = ended
        self._unfinished: dict[int, tuple[FrozenTrial, bytes]] = {}

    def written(self, trial: FrozenTrial) -> bytes:
        """A reply with this trial alone. Several of them, one after the other, are a reply with all."""
        kept = self._ended if trial.state.is_finished() else self._unfinished
        known, text = kept.get(trial_id_of(trial), (None, b""))
        if known is not trial:  # SQLite gives the numbers of a deleted study's trials to others
            text = GetTrialsReply(trials=[_to_proto_trial(trial)]).SerializeToString()
            kept[trial_id_of(trial)] = trial, text
        return text


class SharedReadService(OptunaStorageProxyService):
    """Optuna's, but that clients who ask for a study's trials at the same time are answered from one read.

    With 64 workers three quarters of the proxy's time went into reading and writing down the same running trials again
    and again, for each of them.

    All else goes past Optuna's cache, where there is one: it takes no parameter of a trial that it has not read, which
    is that of a client whose proxy was started again, and it keeps everybody waiting while it reads.
    """

    def __init__(self, storage: BaseStorage) -> None:
        super().__init__(getattr(storage, "_backend", storage))
        self._ended: dict[int, tuple[FrozenTrial, bytes]] = {}
        self._reads = CoalescedReads(
            lambda study_id: TrialsSnapshot(storage.get_all_trials(study_id, deepcopy=False), self._ended)
        )

    def GetTrials(self, request: Any, context: Any) -> bytes:  # type: ignore[override]  # written already
        try:
            read = self._reads.get(request.study_id)
        except KeyError as error:
            context.abort(code=grpc.StatusCode.NOT_FOUND, details=str(error))
        included, after = set(request.included_trial_ids), request.trial_id_greater_than
        return b"".join(
            read.written(trial) for trial in read.trials if trial_id_of(trial) > after or trial_id_of(trial) in included
        )


class UnavailableInterceptor(grpc.ServerInterceptor):  # type: ignore[misc]
    """Answers UNAVAILABLE for a database that is away, where Optuna's service would answer UNKNOWN."""

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        handler = continuation(details)

        def handle(request: Any, context: Any) -> Any:
            try:
                return handler.unary_unary(request, context)
            except Exception as error:
                reason = unreachable(error)
                if reason is not None:
                    context.abort(grpc.StatusCode.UNAVAILABLE, reason)
                raise

        def write(reply: Any) -> bytes:
            written: bytes = reply if isinstance(reply, bytes) else handler.response_serializer(reply)
            return written

        return grpc.unary_unary_rpc_method_handler(handle, handler.request_deserializer, write)


def make_server(storage: BaseStorage, *, shared: bool) -> grpc.Server:
    """A server of a storage, not yet started.

    Args:
        shared: others may listen on the same port; each new client goes to one of them.
    """
    # Not Optuna's run_grpc_proxy_server, which takes no options: two proxies would share a port and its calls.
    options = [("grpc.so_reuseport", int(shared))]
    server = grpc.server(ThreadPoolExecutor(THREADS), interceptors=[UnavailableInterceptor()], options=options)
    add_StorageServiceServicer_to_server(SharedReadService(storage), server)
    return server

"""Optuna's gRPC service, in which calls that read a study's trials at the same time share one read.

Subclasses private names of Optuna, read in Optuna 5.0.0: `storages._grpc.servicer` and its generated protobuf modules.
"""

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
from quell_tuning.storage.grpc_token import TokenCheck
from quell_tuning.storage.retrying import unreachable

THREADS = 32  # calls served at once; most of them wait for the database or for another call's read

T = TypeVar("T")


class CoalescedReads(Generic[T]):
    """One read at a time, shared by all calls that arrived before it started: no answer is older than its call."""

    def __init__(self, read: Callable[[int], T]) -> None:
        self._read = read
        self._next: dict[int, Future[T]] = {}  # by study: the read that has not started yet
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
    """A study's trials at one moment, each serialised when a call first needs it.

    Args:
        ended: finished trials, which do not change any more, with their bytes; shared by all snapshots.
    """

    def __init__(self, trials: Sequence[FrozenTrial], ended: dict[int, tuple[FrozenTrial, bytes]]) -> None:
        self.trials = trials
        self._ended = ended
        self._unfinished: dict[int, tuple[FrozenTrial, bytes]] = {}

    def serialised(self, trial: FrozenTrial) -> bytes:
        """A reply with this trial alone; several replies, joined, are a reply with all their trials."""
        cache = self._ended if trial.state.is_finished() else self._unfinished
        cached, reply = cache.get(trial_id_of(trial), (None, b""))
        if cached is not trial:  # SQLite reuses the numbers of a deleted study's trials
            reply = GetTrialsReply(trials=[_to_proto_trial(trial)]).SerializeToString()
            cache[trial_id_of(trial)] = trial, reply
        return reply


class SharedReadService(OptunaStorageProxyService):
    """Optuna's service, except that clients who ask for a study's trials at the same time share one read.

    With 64 workers the proxy spent three quarters of its time on reading and serialising the same running trials for
    each of them.

    All other calls bypass Optuna's cache, where there is one: it refuses a parameter of a trial that it has not read,
    as after a restart of the proxy, and it blocks all calls while it reads.
    """

    def __init__(self, storage: BaseStorage) -> None:
        super().__init__(getattr(storage, "_backend", storage))
        self._ended: dict[int, tuple[FrozenTrial, bytes]] = {}
        self._reads = CoalescedReads(
            lambda study_id: TrialsSnapshot(storage.get_all_trials(study_id, deepcopy=False), self._ended)
        )

    def GetTrials(self, request: Any, context: Any) -> bytes:  # type: ignore[override]  # serialised already
        try:
            snapshot = self._reads.get(request.study_id)
        except KeyError as error:
            context.abort(code=grpc.StatusCode.NOT_FOUND, details=str(error))
        included, after = set(request.included_trial_ids), request.trial_id_greater_than
        return b"".join(
            snapshot.serialised(trial)
            for trial in snapshot.trials
            if trial_id_of(trial) > after or trial_id_of(trial) in included
        )


class UnavailableInterceptor(grpc.ServerInterceptor):  # type: ignore[misc]
    """Answers UNAVAILABLE when the database cannot be reached, where Optuna's service answers UNKNOWN."""

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

        def serialise(reply: Any) -> bytes:
            content: bytes = reply if isinstance(reply, bytes) else handler.response_serializer(reply)
            return content

        return grpc.unary_unary_rpc_method_handler(handle, handler.request_deserializer, serialise)


def make_server(storage: BaseStorage, *, shared: bool, token: str | None = None) -> grpc.Server:
    """A server of a storage, not yet started.

    Args:
        token: that every call must send; None where all calls are answered.
        shared: others may listen on the same port; each new client goes to one of them.
    """
    # Optuna's run_grpc_proxy_server takes no options, and gRPC by default lets two proxies share a port.
    options = [("grpc.so_reuseport", int(shared))]
    interceptors = [] if token is None else [TokenCheck(token)]
    server = grpc.server(
        ThreadPoolExecutor(THREADS), interceptors=[*interceptors, UnavailableInterceptor()], options=options
    )
    add_StorageServiceServicer_to_server(SharedReadService(storage), server)
    return server

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

from quell_tuning.errors import StorageError
from quell_tuning.optuna_private import trial_id_of
from quell_tuning.outages import BROKEN_GRPC, away, broken
from quell_tuning.storage.grpc_client import CALL, REPEATED, TokenCheck
from quell_tuning.storage.tables import Call, current_call

BROKEN = grpc.StatusCode[BROKEN_GRPC]
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


class CallInterceptor(grpc.ServerInterceptor):  # type: ignore[misc]
    """Makes each request under the name of its call, and says what its errors mean for the client.

    UNAVAILABLE: the database is away; Optuna's service answers UNKNOWN. DATA_LOSS: waiting is of no use.

    Args:
        check: called before each request; raises StorageError where the database can't be used any more.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        handler = continuation(details)

        def handle(request: Any, context: Any) -> Any:
            try:
                self._check()
                with current_call(_sent(context)):
                    return handler.unary_unary(request, context)
            except StorageError as error:
                context.abort(BROKEN, str(error))
            except Exception as error:
                if (reason := away(error)) is not None:
                    context.abort(grpc.StatusCode.UNAVAILABLE, reason)
                if (reason := broken(error)) is not None:
                    context.abort(BROKEN, reason)
                raise

        def serialise(reply: Any) -> bytes:
            content: bytes = reply if isinstance(reply, bytes) else handler.response_serializer(reply)
            return content

        return grpc.unary_unary_rpc_method_handler(handle, handler.request_deserializer, serialise)


def _sent(context: Any) -> Call | None:
    """The call that a request names; None for a client of Optuna's."""
    metadata = dict(context.invocation_metadata())
    return Call(metadata[CALL], metadata.get(REPEATED) == "1") if CALL in metadata else None


def make_server(
    storage: BaseStorage, check: Callable[[], None], *, shared: bool, token: str | None = None
) -> grpc.Server:
    """A server of a storage, not yet started.

    Args:
        storage: one that does not wait for its database: such a call could not be interrupted, and its client waits.
        check: as of `CallInterceptor`.
        token: that every call must send; None where all calls are answered.
        shared: others may listen on the same port; each new client goes to one of them.
    """
    # Optuna's run_grpc_proxy_server takes no options, and gRPC by default lets two proxies share a port.
    options = [("grpc.so_reuseport", int(shared))]
    interceptors = [*([] if token is None else [TokenCheck(token)]), CallInterceptor(check)]
    server = grpc.server(ThreadPoolExecutor(THREADS), interceptors=interceptors, options=options)
    add_StorageServiceServicer_to_server(SharedReadService(storage), server)
    return server

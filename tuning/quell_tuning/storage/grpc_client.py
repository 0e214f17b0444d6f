"""Optuna's gRPC client, which sends with every request the name of its call and the token of the proxy.

Without a token every user of the machine, or of the network, may change the studies. A token, not a socket in the file
system: most workers of a proxy run on other machines. It crosses the network as it is, and keeps out who can connect,
not who can listen.

Subclasses private names of Optuna, read in Optuna 5.0.0: `storages._grpc.client` and its generated protobuf module.
"""

import hmac
from collections.abc import Callable
from typing import Any, NamedTuple

import grpc
from optuna.storages import GrpcStorageProxy
from optuna.storages._grpc.auto_generated.api_pb2_grpc import StorageServiceStub
from optuna.storages._grpc.client import GrpcClientCache

from quell_tuning import environment
from quell_tuning.errors import StorageError
from quell_tuning.storage.tables import current_call

# Metadata of a request: name of the call that it belongs to, and whether that is repeated.
CALL, REPEATED = "quell-call", "quell-repeated"
KEY = "quell-token"  # of the metadata of every call
NEEDED = f"expected the token of the proxy; give its file as {environment.STORAGE_TOKEN_FILE.name}"


class TokenCheck(grpc.ServerInterceptor):  # type: ignore[misc]
    """Refuses calls without the token, before anything of them is read."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        self._refusal = grpc.unary_unary_rpc_method_handler(_refuse)

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        given = dict(details.invocation_metadata).get(KEY, "")
        if hmac.compare_digest(str(given).encode(), self._token):
            return continuation(details)
        return self._refusal


def _refuse(request: Any, context: Any) -> None:
    context.abort(grpc.StatusCode.UNAUTHENTICATED, NEEDED)


class StorageClient(GrpcStorageProxy):
    """Optuna's client, which names its calls and signs them with the token, where there is one."""

    def __init__(self, *, host: str, port: int, token: str | None) -> None:
        self._token = token
        super().__init__(host=host, port=port)

    def _setup(self) -> None:
        super()._setup()
        self._channel = grpc.intercept_channel(self._channel, _Metadata(self._token))
        self._stub = StorageServiceStub(self._channel)
        self._cache = GrpcClientCache(self._stub)

    def check_token(self, url: str) -> None:
        """Raises StorageError where the proxy does not take the token; other failures are for later calls to meet."""
        try:
            self.get_study_name_from_id(-1)
        except KeyError:
            pass
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                found = "no token" if self._token is None else "another token"
                raise StorageError(f"{url}: {found}, {NEEDED}") from None


class _CallDetails(NamedTuple):
    """A call as an interceptor passes it on; grpc has this as an interface alone."""

    method: str
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


class _Metadata(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    def __init__(self, token: str | None) -> None:
        self._token = token

    def intercept_unary_unary(self, continuation: Callable[[Any, Any], Any], details: Any, request: Any) -> Any:
        with current_call() as call:
            metadata = [*(details.metadata or ()), (CALL, call.name), (REPEATED, str(int(call.repeated)))]
        metadata += [] if self._token is None else [(KEY, self._token)]
        rest = (details.credentials, details.wait_for_ready, details.compression)
        return continuation(_CallDetails(details.method, details.timeout, metadata, *rest), request)

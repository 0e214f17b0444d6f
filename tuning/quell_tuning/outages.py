"""Which errors say that a database is away for now, and which that waiting for it is of no use.

A driver's error is told by its code: SQLSTATE of Postgres (appendix A of its manual), result code of SQLite. One
without a code was raised by the driver itself, which lost its connection.
"""

import sqlite3
from collections.abc import Iterator

import sqlalchemy.exc
from optuna.exceptions import StorageInternalError

# Classes of SQLSTATE, and single codes: connection exception, transaction rollback (deadlock), insufficient resources
# (memory, disk, connections), operator intervention (shutdown, statement timeout), system error, read-only transaction
# (failover), transaction that failed or timed out, lock not available.
AWAY_SQLSTATES = ("08", "40", "53", "57", "58", "25006", "25P", "55P03")
AWAY_SQLITE = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,  # too many open files; a file that was deleted is told before (`sqlite_file`)
    sqlite3.SQLITE_PROTOCOL,
}
AWAY_GRPC = ("UNAVAILABLE", "CANCELLED")
BROKEN_GRPC = "DATA_LOSS"  # how our proxy hands on that waiting is of no use
# Errors about the data that were given, not about the database.
OF_THE_DATA = (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.DataError)


def away(error: BaseException) -> str | None:
    """What a storage's error says about a database that is away for now; None for any other error."""
    if not _of_a_storage(error):
        return None
    errors = list(_chain(error))
    verdicts = [verdict for one in errors if (verdict := _verdict(one)) is not None]
    lost = (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError)
    if not (verdicts[0] if verdicts else any(isinstance(one, lost) for one in errors)):
        return None
    return _reason(errors)


def broken(error: BaseException) -> str | None:
    """What an error says about a database that is there and cannot be used: read-only, without its tables, none."""
    if not _of_a_storage(error) or away(error) is not None:
        return None
    errors = list(_chain(error))
    of_the_database = next((one for one in errors if isinstance(one, sqlalchemy.exc.DBAPIError)), None)
    if of_the_database is None or isinstance(of_the_database, OF_THE_DATA):
        return _reason(errors) if _grpc_code(error) == BROKEN_GRPC else None
    return _reason(errors)


def _of_a_storage(error: BaseException) -> bool:
    return isinstance(error, StorageInternalError | sqlalchemy.exc.SQLAlchemyError) or _grpc_code(error) is not None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and, in turn, what it was raised from or during, and the driver's own error."""
    seen: list[BaseException] = []
    waiting = [error]
    while waiting:
        one = waiting.pop(0)
        if one is not None and one not in seen:
            seen.append(one)
            yield one
            waiting += [getattr(one, "orig", None), one.__cause__]
            if not one.__suppress_context__:
                waiting.append(one.__context__)


def _verdict(error: BaseException) -> bool | None:
    """Whether this error alone means that the database is away; None where it does not tell."""
    if isinstance(error, sqlalchemy.exc.DBAPIError):
        return True if error.connection_invalidated else None
    # PendingRollbackError: the rest of a call whose connection was lost in the middle; the next one starts afresh.
    if isinstance(error, sqlalchemy.exc.TimeoutError | sqlalchemy.exc.PendingRollbackError | OSError):
        return True
    code = _grpc_code(error)
    if code is not None:
        return code in AWAY_GRPC
    if isinstance(error, sqlite3.Error):
        result = getattr(error, "sqlite_errorcode", None)
        return None if result is None else result & 0xFF in AWAY_SQLITE
    if type(error).__module__.startswith("psycopg"):
        return _psycopg_verdict(error)
    return None


def _psycopg_verdict(error: BaseException) -> bool | None:
    state = getattr(error, "sqlstate", None)
    if state is not None:
        return str(state).startswith(AWAY_SQLSTATES)
    # Others without a code complain about the connection's state, such as "can't change 'autocommit' now", because of
    # the error below them.
    names = {kind.__name__ for kind in type(error).__mro__}
    return True if names & {"OperationalError", "InterfaceError"} else None


def _grpc_code(error: BaseException) -> str | None:
    """Name of the status of a grpc.RpcError, without importing grpc."""
    code = getattr(error, "code", None)
    return str(code().name) if type(error).__module__.startswith("grpc") and callable(code) else None


def _reason(errors: list[BaseException]) -> str:
    """The first line of the driver's own error, or of the outermost that is no wrapper of Optuna's."""
    for error in errors:
        if _grpc_code(error) is not None:
            return str(getattr(error, "details", lambda: "")() or _grpc_code(error))
        if isinstance(error, sqlalchemy.exc.DBAPIError) and error.orig is not None:
            return first_line(error.orig)
        if not isinstance(error, StorageInternalError):
            return first_line(error)
    return first_line(errors[0])


def first_line(error: object) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

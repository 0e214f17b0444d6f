"""Storage URLs: by flag, file, environment or default; how they are shown without their passwords."""

import re
from pathlib import Path

import sqlalchemy
from sqlalchemy.exc import SQLAlchemyError

from quell_tuning import environment
from quell_tuning.errors import StorageError, UsageError

LOCAL_POSTGRES = "postgres"  # a URL that stands for a server of our own
EXPECTED = "expected sqlite:///FILE, postgresql+psycopg://USER@HOST/DATABASE, grpc://HOST:PORT or postgres"


def shown(url: str) -> str:
    """A storage URL without its secrets, for messages; of one that cannot be parsed the scheme at most."""
    parsed = parse_url(url)
    if parsed is None:
        scheme = re.match(r"[\w+]*(?=:|$)", url)
        return repr(scheme[0]) if scheme else "no URL"
    return parsed.set(query={}).render_as_string(hide_password=True)


def parse_url(url: str) -> sqlalchemy.URL | None:
    """The parts of a URL; None where it is malformed."""
    try:
        parsed = sqlalchemy.engine.make_url(url)
    except (SQLAlchemyError, ValueError):  # ValueError: a port that is no number
        return None
    return None if "@" in (parsed.host or "") else parsed  # else the end of a password whose @ is not quoted


def with_password(url: str, password: str) -> str:
    """The URL with the password, where it is one of Postgres that has none."""
    parsed = parse_url(url)
    if parsed is None or parsed.password is not None or not parsed.drivername.startswith("postgresql"):
        return url
    return parsed.set(password=password).render_as_string(hide_password=False)


def check_scheme(url: str) -> None:
    """Raises StorageError unless `open_storage` knows this kind of URL."""
    if url.partition(":")[0] not in ("sqlite", "postgresql", "postgresql+psycopg", "grpc"):
        raise StorageError(f"--storage: {shown(url)}, {EXPECTED}; leave it out for the database in --runs")


def storage_url(flag: str | None, file: Path | None, default: str) -> str:
    """The URL of the storage that was asked for: by flag, file, QUELL_STORAGE or, without these, the default.

    A URL with a password in it belongs in a file or in the environment. One without takes that of the file named by
    QUELL_STORAGE_PASSWORD_FILE, as container engines hand out secrets.

    Raises:
        UsageError: both a URL and a file.
        StorageError: the file cannot be read, or the URL is of an unknown kind.
    """
    if flag and file:
        raise UsageError("--storage and --storage-file: both given, expected one of them; leave the other out")
    url = only_word(file) if file is not None else flag or environment.STORAGE.get() or default
    if url == LOCAL_POSTGRES:
        return url
    check_scheme(url)
    secret = environment.STORAGE_PASSWORD_FILE.get()
    return with_password(url, only_word(Path(secret), "database's password")) if secret else url


def proxy_token(file: Path | None = None) -> str | None:
    """The token of a gRPC proxy in the file, else in that of QUELL_STORAGE_TOKEN_FILE; None without either.

    Raises:
        StorageError: the file cannot be read, or holds no token.
    """
    named = environment.STORAGE_TOKEN_FILE.get()
    source = file or (Path(named) if named else None)
    if source is None:
        return None
    token = only_word(source, "token")
    if not token.isascii() or not token.isprintable():
        raise StorageError(f"{source}: not ASCII, expected a token of letters, digits and signs; write another")
    return token


def only_word(file: Path, what: str = "storage URL") -> str:
    """The one word of a file; raises StorageError where it cannot be read or has none or several."""
    try:
        lines = file.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise StorageError(f"{file}: {reason}, expected a file that holds a {what}; check the path") from None
    if len(lines) != 1:
        raise StorageError(f"{file}: {len(lines)} words, expected one, the {what}; remove the others")
    return lines[0]

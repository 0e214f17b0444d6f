"""The store of artifacts, the audio files and pictures of trials: a folder, or an S3 bucket."""

import io
import re
import uuid
import zlib
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import unquote, urlsplit

from quell_tuning.errors import StorageError
from quell_tuning.workspace.run_folder import RunFolder
from quell_tuning.workspace.s3_bucket import Bucket

FOLDER = "artifacts"


class ArtifactStore(Protocol):
    """What Optuna and optuna-dashboard ask of a store; Optuna's own protocol is private.

    `open_reader` and `remove` raise `optuna.artifacts.exceptions.ArtifactNotFound` for an id without a file.
    """

    def open_reader(self, artifact_id: str) -> BinaryIO: ...

    def write(self, artifact_id: str, content_body: BinaryIO) -> None: ...

    def remove(self, artifact_id: str) -> None: ...


def id_of(content: bytes) -> str:
    """A new id for an artifact, with the content's check sum: a UUID of version 8 that ends with its CRC-32."""
    return f"{str(uuid.uuid4())[:14]}8{str(uuid.uuid4())[15:28]}{zlib.crc32(content):08x}"


def has_sum(artifact_id: str) -> bool:
    """Whether it is an id of `id_of`; Optuna's and those of an earlier Quell are UUIDs of version 4."""
    return re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", artifact_id) is not None


def is_damaged(artifact_id: str, content: bytes) -> bool:
    """Whether an artifact is not what was stored, as far as its id tells."""
    return has_sum(artifact_id) and int(artifact_id[-8:], 16) != zlib.crc32(content)


def open_artifacts(url: str | None, runs: RunFolder) -> ArtifactStore:
    """The store of a study's artifacts: `s3://BUCKET/PREFIX`, a folder or its file:// URL, or a folder of the runs.

    An absent folder is created. A bucket is that of the runs' mirror, which `open_mirror` opened from the same URL.

    Raises:
        StorageError: another kind of URL, or a folder that cannot be created. A bucket's store raises it later, when
            the bucket refuses or does not answer.
    """
    if runs.mirror is not None:
        return BucketArtifacts(runs.mirror.bucket)
    folder = _folder(url) if url else runs.folder / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"{folder}: {error.strerror}, expected a folder for artifacts; check --artifacts and --runs"
        ) from error
    from optuna.artifacts import FileSystemArtifactStore

    return FileSystemArtifactStore(folder)


def _folder(url: str) -> Path:
    scheme = re.match(r"([a-zA-Z][\w+.-]*):/", url)
    if scheme is None:
        return Path(url)
    parsed = urlsplit(url)
    if scheme[1] != "file" or parsed.netloc not in ("", "localhost"):
        raise StorageError(
            f"--artifacts: {scheme[1]}:, expected a folder or s3://BUCKET/PREFIX; leave it out for a folder in --runs"
        )
    return Path(unquote(parsed.path))


class BucketArtifacts:
    """Optuna's store in a bucket, with a prefix before the ids and errors in one line.

    boto3 retries by itself: Optuna's Backoff (5.0) would repeat a refused deletion ten times, for 81 s, and
    log tracebacks.
    """

    def __init__(self, bucket: Bucket) -> None:
        from optuna.artifacts import Boto3ArtifactStore

        self._bucket = bucket
        self._store = Boto3ArtifactStore(bucket.name, bucket.client)

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """The whole artifact in memory: seekable, and without a connection."""
        with self._bucket.one_line(), closing(self._store.open_reader(self._key(artifact_id))) as body:
            return io.BytesIO(body.read())

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        with self._bucket.one_line():
            self._store.write(self._key(artifact_id), content_body)

    def remove(self, artifact_id: str) -> None:
        with self._bucket.one_line():
            self._store.remove(self._key(artifact_id))

    def _key(self, artifact_id: str) -> str:
        from optuna.artifacts.exceptions import ArtifactNotFound

        if not re.fullmatch(r"[\w-]+", artifact_id):  # `..` would leave the folder where a bucket is made of files
            raise ArtifactNotFound(f"{artifact_id!r}: not an artifact's id")
        return self._bucket.key(f"{FOLDER}/{artifact_id}")

"""Files below a prefix of a bucket of S3-compatible storage.

boto3 finds credentials and endpoint by itself (AWS_PROFILE, AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL_S3, ~/.aws, the
machine's role).
"""

import io
import logging
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from quell_tuning.errors import StorageError

# With these a server that has vanished is given up after 40 s; the mirror tries again by itself.
CONNECT_S, READ_S, ATTEMPTS = 3, 10, 3
DENIED = ("AccessDenied", "AllAccessDisabled", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "403")


class Bucket:
    """Files by name, `folder/file`, below the prefix; safe to use from several threads.

    Needs the rights s3:ListBucket on the bucket and s3:GetObject, s3:PutObject and s3:DeleteObject below the prefix.

    Raises:
        StorageError: from any method, when the storage refuses or cannot be reached.
    """

    def __init__(self, name: str, prefix: str, client: Any) -> None:
        self.name = name
        self.prefix = prefix
        self.client = client

    def __str__(self) -> str:
        return f"s3://{self.name}/{self.prefix}".rstrip("/")

    def key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name

    def check(self, *, write: bool) -> None:
        """Checks the rights: to list, and with `write` also to write, read and delete."""
        with self.one_line():
            self.client.list_objects_v2(Bucket=self.name, Prefix=self.key(""), MaxKeys=1)
        if write:
            name = f"check-{uuid.uuid4()}"
            self.put(name, io.BytesIO(b"written, read and deleted by quell\n"))
            self.get(name, io.BytesIO())
            self.delete(name)

    def put(self, name: str, content: BinaryIO) -> None:
        """Writes a file whole or not at all."""
        with self.one_line():
            self.client.put_object(Bucket=self.name, Key=self.key(name), Body=content)

    def get(self, name: str, into: BinaryIO) -> None:
        """Reads a file; raises FileNotFoundError if there is none."""
        with self.one_line():
            try:
                body = self.client.get_object(Bucket=self.name, Key=self.key(name))["Body"]
            except self.client.exceptions.NoSuchKey:
                raise FileNotFoundError(f"{self}/{name}") from None
            with closing(body):
                shutil.copyfileobj(body, into)

    def delete(self, name: str) -> None:
        """Removes a file if it is there."""
        with self.one_line():
            self.client.delete_object(Bucket=self.name, Key=self.key(name))

    def names(self, folder: str) -> list[str]:
        """The names of the files in a folder."""
        start = self.key(f"{folder}/")
        with self.one_line():
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=start)
            return [found["Key"].removeprefix(start) for page in pages for found in page.get("Contents", ())]

    @contextmanager
    def one_line(self) -> Iterator[None]:
        """Turns what boto3 raises inside the block into a StorageError of one line."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError, Boto3Error) as error:
            raise StorageError(f"{self}: {_reason(error, self.client.meta.endpoint_url)}") from None


def open_bucket(url: str) -> Bucket:
    """The bucket behind `s3://BUCKET/PREFIX`; makes no request yet, see `Bucket.check`.

    Raises:
        StorageError: another kind of URL, no boto3, or settings of boto3 that it cannot use.
    """
    match = re.fullmatch(r"s3://([\w.-]+)(?:/([^@]*))?", url)
    if match is None:
        raise StorageError(
            "--artifacts: an s3 URL of another form, expected s3://BUCKET/PREFIX; boto3 finds credentials by itself "
            "(AWS_PROFILE)"
        )
    name, prefix = match[1], (match[2] or "").strip("/")
    try:
        import boto3.session
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError:
        raise StorageError(
            f"--artifacts: {url}, expected boto3 to be installed; pip install 'quell-denoiser[s3]'"
        ) from None
    logging.getLogger("botocore").setLevel(logging.WARNING)  # it logs where it found credentials
    config = Config(
        connect_timeout=CONNECT_S,
        read_timeout=READ_S,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        # Other S3-compatible storage refuses the checksums that boto3 adds since 1.36.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        client = boto3.session.Session().client("s3", config=config)
    except BotoCoreError as error:
        raise StorageError(f"{url}: {_reason(error, '')}") from None
    except ValueError:
        raise StorageError(
            f"{url}: an endpoint that is no URL, expected http(s)://HOST:PORT; check AWS_ENDPOINT_URL_S3"
        ) from None
    return Bucket(name, prefix, client)


def _reason(error: Exception, endpoint: str) -> str:
    """An error of boto3 as found, expected and remedy; of the endpoint only its host and port."""
    from botocore import exceptions

    if isinstance(error, exceptions.ClientError):
        details = error.response.get("Error", {})
        code = str(details.get("Code"))
        if code == "NoSuchBucket":
            return "no such bucket, expected one that is there; make it, or name another"
        if code in DENIED:
            return f"access denied ({code}), expected the rights to list, read, write and delete; check AWS_PROFILE"
        return f"{code}, {details.get('Message')}, expected an answer; check the storage"
    if isinstance(error, exceptions.ConnectionError | exceptions.HTTPClientError):
        host = urlsplit(endpoint).netloc.rpartition("@")[2]
        return f"{host} does not answer ({type(error).__name__}), expected S3 storage; check AWS_ENDPOINT_URL_S3"
    text = " ".join(str(error).split())
    return f"{text}, expected what boto3 needs; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"

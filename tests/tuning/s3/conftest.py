"""Buckets on a server of moto's, and machines that share through them."""

import logging
import os
import uuid
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from quell_tuning.workspace.bucket_mirror import open_mirror
from quell_tuning.workspace.run_folder import RunFolder
from quell_tuning.workspace.s3_bucket import Bucket, open_bucket

SECRET = "sesame"  # in the key and in its name
EXTRA = "needs the extra s3 and moto's server"


class Server:
    """S3 on a port of 127.0.0.1."""

    def __init__(self) -> None:
        from moto.moto_server.threaded_moto_server import ThreadedMotoServer

        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.url = f"http://{host}:{port}"
        self.stop = self._server.stop


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """Without a line for every request."""
    log = logging.getLogger("werkzeug")
    level = log.level
    log.setLevel(logging.ERROR)
    yield
    log.setLevel(level)


@pytest.fixture(scope="session")
def start_server() -> Callable[[], Server]:
    """Starts one more, for a test that stops it."""
    if not all(map(find_spec, ("boto3", "moto", "flask", "flask_cors"))):
        pytest.skip(EXTRA)
    return Server


@pytest.fixture(scope="module")
def server(start_server: Callable[[], Server]) -> Iterator[Server]:
    server = start_server()
    yield server
    server.stop()


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Points boto3 at an endpoint, and away from all that this machine knows of others."""

    def aws(endpoint: str) -> None:
        for name in filter(lambda name: name.startswith("AWS_"), os.environ):
            monkeypatch.delenv(name)
        settings = {
            "ENDPOINT_URL_S3": endpoint,
            "ACCESS_KEY_ID": f"AKIA{SECRET}",
            "SECRET_ACCESS_KEY": f"{SECRET}/+",
            "EC2_METADATA_DISABLED": "true",
            "CONFIG_FILE": str(tmp_path / "no-config"),
            "SHARED_CREDENTIALS_FILE": str(tmp_path / "no-credentials"),
        }
        for name, value in settings.items():
            monkeypatch.setenv(f"AWS_{name}", value)

    return aws


@pytest.fixture
def bucket(server: Server, aws: Callable[[str], None]) -> Bucket:
    """One of its own, open at its root."""
    aws(server.url)
    bucket = open_bucket(f"s3://b{uuid.uuid4()}")
    bucket.client.create_bucket(Bucket=bucket.name)
    return bucket


@pytest.fixture
def keys(bucket: Bucket) -> Callable[[], list[str]]:
    """Lists all that the bucket holds."""
    return lambda: [found["Key"] for found in bucket.client.list_objects_v2(Bucket=bucket.name).get("Contents", ())]


@pytest.fixture
def machine(bucket: Bucket, tmp_path: Path) -> Iterator[Callable[[str], RunFolder]]:
    """The runs folder of a machine, with what it shares in the bucket, under `studies`."""
    made = []

    def machine(name: str) -> RunFolder:
        folder = tmp_path / name
        made.append(RunFolder(folder, open_mirror(f"s3://{bucket.name}/studies", folder)))
        return made[-1]

    yield machine
    for runs in made:
        runs.close()

"""Audio, weights and checkpoints in a folder, and in a bucket on a server of moto's."""

import io
import json
import logging
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import torch
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.trial import TrialState

from quell.denoiser import load_weights
from tuning import exporting, objective, outcome
from tuning.artifacts import open_artifacts
from tuning.bucket import Bucket, open_bucket
from tuning.errors import StorageError
from tuning.mirror import open_mirror
from tuning.runs import Runs

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


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    if not all(map(find_spec, ("boto3", "moto", "flask", "flask_cors"))):
        pytest.skip(EXTRA)
    server = Server()
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
def machine(bucket: Bucket, tmp_path: Path) -> Iterator[Callable[[str], Runs]]:
    """The runs folder of a machine, with what it shares in the bucket, under `studies`."""
    made = []

    def machine(name: str) -> Runs:
        folder = tmp_path / name
        made.append(Runs(folder, open_mirror(f"s3://{bucket.name}/studies", folder)))
        return made[-1]

    yield machine
    for runs in made:
        runs.close()


def upload(store: Any, folder: Path, content: bytes) -> str:
    (folder / "noisy.wav").write_bytes(content)
    study = optuna.create_study()
    return optuna.artifacts.upload_artifact(
        artifact_store=store, file_path=str(folder / "noisy.wav"), study_or_trial=study
    )


def keys(bucket: Bucket) -> list[str]:
    return [found["Key"] for found in bucket.client.list_objects_v2(Bucket=bucket.name).get("Contents", ())]


def test_an_artifact_comes_back_from_below_its_prefix(bucket: Bucket, tmp_path: Path) -> None:
    store = open_artifacts(f"s3://{bucket.name}/some/prefix/", Runs(tmp_path))
    artifact = upload(store, tmp_path, b"RIFF and so on")
    assert keys(bucket) == [f"some/prefix/artifacts/{artifact}"]
    with store.open_reader(artifact) as reader:
        assert reader.seek(-2, os.SEEK_END) == 12  # a player jumps
        assert reader.read() == b"on"
    store.remove(artifact)
    assert keys(bucket) == []
    with pytest.raises(ArtifactNotFound):
        store.open_reader(artifact)


def test_two_prefixes_do_not_see_each_other(bucket: Bucket, tmp_path: Path) -> None:
    one, other = (open_artifacts(f"s3://{bucket.name}/{prefix}", Runs(tmp_path)) for prefix in ("team", "team2"))
    artifact = upload(one, tmp_path, b"mine")
    with pytest.raises(ArtifactNotFound):
        other.open_reader(artifact)
    runs = [Runs(tmp_path, open_mirror(f"s3://{bucket.name}/{prefix}", tmp_path)) for prefix in ("team", "team2")]
    assert runs[0].mirror is not None
    runs[0].mirror.bucket.put("study/trials/00001.weights", io.BytesIO(b"w"))
    assert [one.kept_weights("study") for one in runs] == [{1}, set()]


def test_several_threads_may_read_at_once(bucket: Bucket, tmp_path: Path) -> None:
    store = open_artifacts(f"s3://{bucket.name}", Runs(tmp_path))
    contents = [bytes([number]) * 100_000 for number in range(8)]
    artifacts = [upload(store, tmp_path, content) for content in contents]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda artifact: store.open_reader(artifact).read(), artifacts * 4))
    assert found == contents * 4


@pytest.mark.parametrize("artifact", ["../study/trials/00001.weights", "..", "a/b", ""])
def test_no_id_leads_out_of_the_artifacts(bucket: Bucket, tmp_path: Path, artifact: str) -> None:
    bucket.put("p/study/trials/00001.weights", io.BytesIO(b"weights"))
    with pytest.raises(ArtifactNotFound, match="not an artifact's id"):
        open_artifacts(f"s3://{bucket.name}/p", Runs(tmp_path)).open_reader(artifact)


@pytest.mark.parametrize(
    ("url", "folder"),
    [
        (None, "runs/artifacts"),
        ("", "runs/artifacts"),
        ("{}/the store", "the store"),
        ("file://{}/the%20store", "the store"),
    ],
)
def test_without_a_bucket_artifacts_are_in_a_folder_that_is_made(url: str | None, folder: str, tmp_path: Path) -> None:
    runs = Runs(tmp_path / "runs")
    artifact = upload(open_artifacts(url and url.format(tmp_path), runs), tmp_path, b"heard")
    assert (tmp_path / folder / artifact).read_bytes() == b"heard"
    assert open_mirror(url, runs.folder) is None


def deny(action: str) -> Callable[[Bucket], object]:
    statement = {"Effect": "Deny", "Principal": "*", "Action": action, "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    return lambda bucket: bucket.client.put_bucket_policy(Bucket=bucket.name, Policy=policy)


REFUSALS: dict[str, tuple[Callable[[Bucket], object], str]] = {
    "gone": (lambda bucket: bucket.client.delete_bucket(Bucket=bucket.name), "no such bucket, expected one that is"),
    "write": (deny("s3:PutObject"), "access denied (403), expected the rights to list, read, write and delete"),
    "read": (deny("s3:GetObject"), "access denied (403), expected the rights"),
    "delete": (deny("s3:DeleteObject"), "access denied (403), expected the rights"),
}


@pytest.mark.parametrize(("change", "said"), REFUSALS.values(), ids=REFUSALS)
def test_a_bucket_that_refuses_is_told_before_it_is_used(
    bucket: Bucket, tmp_path: Path, change: Callable[[Bucket], object], said: str
) -> None:
    Runs(tmp_path).check(write=True)
    runs = Runs(tmp_path, open_mirror(str(bucket), tmp_path))
    runs.check(write=True)
    assert keys(bucket) == []
    change(bucket)
    with pytest.raises(StorageError) as refused:
        runs.check(write=True)
    assert str(refused.value).startswith(f"s3://{bucket.name}: {said}")


# What the environment says, the URL, and the whole of the error.
MISTAKES: dict[str, tuple[dict[str, str], str, str]] = {
    "silent": (
        {"ENDPOINT_URL_S3": f"http://me:{SECRET}@127.0.0.1:1"},
        "s3://b/p",
        "s3://b/p: 127.0.0.1:1 does not answer (EndpointConnectionError), expected S3 storage; check "
        "AWS_ENDPOINT_URL_S3",
    ),
    "endpoint": (
        {"ENDPOINT_URL_S3": SECRET},
        "s3://b/p",
        "s3://b/p: an endpoint that is no URL, expected http(s)://HOST:PORT; check AWS_ENDPOINT_URL_S3",
    ),
    "profile": (
        {"PROFILE": "other"},
        "s3://b/p",
        "s3://b/p: The config profile (other) could not be found, expected what boto3 needs; set AWS_PROFILE, or "
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    ),
    "nobody": (
        {"ACCESS_KEY_ID": "", "SECRET_ACCESS_KEY": ""},
        "s3://b",
        "s3://b: Unable to locate credentials, expected what boto3 needs; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY",
    ),
    "inside": (
        {},
        f"s3://AKIA:{SECRET}@b/p",
        "--artifacts: an s3 URL of another form, expected s3://BUCKET/PREFIX; boto3 finds credentials by itself "
        "(AWS_PROFILE)",
    ),
    "scheme": (
        {},
        f"gs://{SECRET}@b/p",
        "--artifacts: gs:, expected a folder or s3://BUCKET/PREFIX; leave it out for a folder in --runs",
    ),
    "host": (
        {},
        "file://elsewhere/b",
        "--artifacts: file:, expected a folder or s3://BUCKET/PREFIX; leave it out for a folder in --runs",
    ),
}


@pytest.mark.parametrize(("environment", "url", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_place_that_cannot_be_used_is_told_in_one_line_without_secrets(
    environment: dict[str, str],
    url: str,
    said: str,
    aws: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    if find_spec("boto3") is None:
        pytest.skip(EXTRA)
    aws("http://127.0.0.1:1")
    for name, value in environment.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    with pytest.raises(StorageError) as refused:
        open_artifacts(url, Runs(tmp_path))
    assert str(refused.value) == said


def test_without_boto3_a_bucket_is_refused_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(StorageError, match=r"s3://b/p, expected boto3 .* pip install 'quell-denoiser\[s3\]'"):
        open_artifacts("s3://b/p", Runs(tmp_path))


def test_a_file_in_the_way_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file: File exists, expected a folder for artifacts"):
        open_artifacts(str(tmp_path / "file"), Runs(tmp_path))


class Left(BaseException):
    """The worker was asked to leave."""


class Running:
    """A trial in the hands of a worker that does `between` after each step of training, given their number."""

    def __init__(self, trial: optuna.Trial, between: Callable[[int], None] = lambda steps: None) -> None:
        self.trial = trial
        self.between = between
        self.steps = 0
        self.lease = SimpleNamespace()

    def step(self, audio_hours: float) -> None:
        self.steps += 1
        self.between(self.steps)

    def look_up(self) -> None:
        pass


@pytest.fixture
def task(tiny_spec, small_corpus, validation, scorer) -> Callable[[Runs], objective.Task]:
    spec = tiny_spec(training={"audio_hours": 0.03, "rungs_audio_hours": [0.03]}, search={"depth": 2})
    return lambda runs: objective.Task(spec, small_corpus, validation, scorer, torch.device("cpu"), runs)


def test_a_trial_that_is_left_on_one_machine_ends_on_another_and_is_exported_from_a_third(
    machine, task, bucket: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    def leave(steps: int) -> None:
        if steps == 60:  # of 108
            raise Left

    caplog.set_level(logging.INFO)
    study = optuna.create_study(study_name="tiny", direction="maximize")
    left, other = machine("left"), machine("other")
    running = Running(study.ask(), leave)
    with pytest.raises(Left):
        objective.run_trial(running, task(left))
    assert keys(bucket) == ["studies/tiny/checkpoints/00000/001.checkpoint"]
    assert not list(left.folder.rglob("*.checkpoint"))  # it would hide the other's from this machine
    again = Running(running.trial)
    objective.run_trial(again, task(other))
    assert again.steps == 108 - 60
    assert "trial 0 goes on from its checkpoint" in caplog.text
    assert other.mirror is not None and other.mirror.flush(10)
    assert keys(bucket) == ["studies/tiny/trials/00000.weights"]

    third = machine("third")
    assert exporting.choose(study, third).trial.number == 0
    restored = load_weights(third.fetch_weights("tiny", 0)).state_dict()
    trained = load_weights(other.weights("tiny", 0)).state_dict()
    assert all(torch.equal(restored[name], trained[name]) for name in trained)
    (ended,) = study.trials
    assert SECRET not in f"{study.user_attrs}{ended.user_attrs}{ended.system_attrs}{caplog.text}"


def test_while_the_bucket_is_away_training_goes_on_with_one_warning(
    aws, task, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if find_spec("moto") is None:
        pytest.skip(EXTRA)
    server = Server()
    aws(server.url)
    open_bucket("s3://away").client.create_bucket(Bucket="away")
    mirror = open_mirror("s3://away/p", tmp_path)
    assert mirror is not None

    def stop(steps: int) -> None:
        if steps == 50:
            server.stop()

    study = optuna.create_study(study_name="tiny", direction="maximize")
    runs = Runs(tmp_path, mirror)
    objective.run_trial(Running(study.ask(), stop), task(runs))
    assert study.trials[0].state == TrialState.COMPLETE
    assert not mirror.flush(10)
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1, warnings
    assert warnings[0].startswith("s3://away/p: 127.0.0.1:")
    assert runs.weights("tiny", 0).exists()
    runs.close()
    assert str(tmp_path) in caplog.records[-1].getMessage()


def test_weights_that_are_not_the_best_are_removed_from_the_bucket_wherever_they_were_written(machine) -> None:
    study = optuna.create_study(study_name="s", direction="maximize")
    one, other = machine("one"), machine("other")
    for number, runs in enumerate([one, other, one, other]):
        study.add_trial(optuna.trial.create_trial(value=number))
        runs.weights("s", number).parent.mkdir(parents=True, exist_ok=True)
        runs.weights("s", number).write_bytes(b"w")
        runs.share_weights("s", number)
    assert one.mirror.flush(10) and other.mirror.flush(10)
    third = machine("third")
    assert third.kept_weights("s") == {0, 1, 2, 3}
    outcome.forget_weights(study, one, keep=2)
    assert one.mirror.flush(10)
    assert third.kept_weights("s") == {2, 3}
    assert third.fetch_weights("s", 2).read_bytes() == b"w"
    assert not third.fetch_weights("s", 0).exists()

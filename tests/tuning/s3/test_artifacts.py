"""Artifacts in a folder and in a bucket, and places for them that cannot be used."""

import io
import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.artifacts.exceptions import ArtifactNotFound
from quell_tuning.artifacts.artifact_store import ArtifactStore, open_artifacts
from quell_tuning.errors import StorageError
from quell_tuning.workspace.bucket_mirror import open_mirror
from quell_tuning.workspace.run_folder import RunFolder
from quell_tuning.workspace.s3_bucket import Bucket

SECRET = "sesame"  # in the key and in its name, as conftest.py gives them


def open_store(url: str, folder: Path) -> ArtifactStore:
    """As a command does: with the mirror of its runs, which is checked first."""
    runs = RunFolder(folder, open_mirror(url, folder))
    runs.check(write=False)
    return open_artifacts(url, runs)


def upload(store: Any, folder: Path, content: bytes) -> str:
    (folder / "noisy.wav").write_bytes(content)
    study = optuna.create_study()
    return optuna.artifacts.upload_artifact(
        artifact_store=store, file_path=str(folder / "noisy.wav"), study_or_trial=study
    )


def test_an_artifact_is_read_back_from_below_its_prefix(
    bucket: Bucket, keys: Callable[[], list[str]], tmp_path: Path
) -> None:
    store = open_store(f"s3://{bucket.name}/some/prefix/", tmp_path)
    artifact = upload(store, tmp_path, b"RIFF and so on")
    assert keys() == [f"some/prefix/artifacts/{artifact}"]
    with store.open_reader(artifact) as reader:
        assert reader.seek(-2, os.SEEK_END) == 12  # a player jumps
        assert reader.read() == b"on"
    store.remove(artifact)
    assert keys() == []
    with pytest.raises(ArtifactNotFound):
        store.open_reader(artifact)


def test_two_prefixes_do_not_see_each_other(bucket: Bucket, tmp_path: Path) -> None:
    one, other = (open_store(f"s3://{bucket.name}/{prefix}", tmp_path) for prefix in ("team", "team2"))
    artifact = upload(one, tmp_path, b"mine")
    with pytest.raises(ArtifactNotFound):
        other.open_reader(artifact)
    runs = [RunFolder(tmp_path, open_mirror(f"s3://{bucket.name}/{prefix}", tmp_path)) for prefix in ("team", "team2")]
    assert runs[0].mirror is not None
    runs[0].mirror.bucket.put("study/trials/00001.weights", io.BytesIO(b"w"))
    assert [one.kept_weights("study") for one in runs] == [{1}, set()]


def test_several_threads_may_read_at_once(bucket: Bucket, tmp_path: Path) -> None:
    store = open_store(f"s3://{bucket.name}", tmp_path)
    contents = [bytes([number]) * 100_000 for number in range(8)]
    artifacts = [upload(store, tmp_path, content) for content in contents]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda artifact: store.open_reader(artifact).read(), artifacts * 4))
    assert found == contents * 4


@pytest.mark.parametrize("artifact", ["../study/trials/00001.weights", "..", "a/b", ""])
def test_no_id_leads_out_of_the_artifacts(bucket: Bucket, tmp_path: Path, artifact: str) -> None:
    bucket.put("p/study/trials/00001.weights", io.BytesIO(b"weights"))
    with pytest.raises(ArtifactNotFound, match="not an artifact's id"):
        open_store(f"s3://{bucket.name}/p", tmp_path).open_reader(artifact)


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
    runs = RunFolder(tmp_path / "runs")
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
def test_a_bucket_that_refuses_access_is_named_before_it_is_used(
    bucket: Bucket, keys: Callable[[], list[str]], tmp_path: Path, change: Callable[[Bucket], object], said: str
) -> None:
    RunFolder(tmp_path).check(write=True)
    runs = RunFolder(tmp_path, open_mirror(str(bucket), tmp_path))
    runs.check(write=True)
    assert keys() == []
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
def test_an_unusable_place_is_named_in_one_line_without_secrets(
    environment: dict[str, str],
    url: str,
    said: str,
    aws: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    if find_spec("boto3") is None:
        pytest.skip("needs the extra s3")
    aws("http://127.0.0.1:1")
    for name, value in environment.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    with pytest.raises(StorageError) as refused:
        open_store(url, tmp_path)
    assert str(refused.value) == said


def test_without_boto3_a_bucket_is_refused_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(StorageError, match=r"s3://b/p, expected boto3 .* pip install 'quell-denoiser\[s3\]'"):
        open_store("s3://b/p", tmp_path)


def test_a_file_in_the_way_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file: File exists, expected a folder for artifacts"):
        open_artifacts(str(tmp_path / "file"), RunFolder(tmp_path))

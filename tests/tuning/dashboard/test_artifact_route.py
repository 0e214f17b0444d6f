"""Artifacts are served in ranges, only when they are listed, and never as a page."""

import io
import json
from pathlib import Path
from typing import Any, BinaryIO
from wsgiref.types import StartResponse, WSGIEnvironment
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from quell_tuning.artifacts.artifact_store import id_of
from quell_tuning.dashboard import artifact_route
from quell_tuning.dashboard.access_control import Guard
from quell_tuning.dashboard.artifact_route import Artifacts
from quell_tuning.optuna_private import storage_of, study_id_of, trial_id_of

CONTENT = bytes(range(256)) * 3
SIZE = len(CONTENT)


class Pipe(io.BytesIO):
    """A stream from a network, which is not seekable."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_: Any) -> int:
        raise OSError("not a file")


class Remote:
    """A store on another machine."""

    def __init__(self, content: bytes | Exception) -> None:
        self.content = content

    def open_reader(self, artifact_id: str) -> BinaryIO:
        if isinstance(self.content, Exception):
            raise self.content
        return Pipe(self.content)


def dashboard(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [])
    return [b"the dashboard"]


@pytest.fixture
def store(tmp_path: Path) -> FileSystemArtifactStore:
    (tmp_path / "artifacts").mkdir()
    return FileSystemArtifactStore(tmp_path / "artifacts")


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study(storage=optuna.storages.InMemoryStorage())


@pytest.fixture
def upload(study: optuna.Study, store: FileSystemArtifactStore, tmp_path: Path) -> Any:
    """Uploads CONTENT and returns its path on the dashboard."""

    def upload(name: str = "clip.wav", to: optuna.Study | optuna.Trial = study, **described: str) -> str:
        file = tmp_path / name
        file.write_bytes(CONTENT)
        artifact = upload_artifact(artifact_store=store, file_path=str(file), study_or_trial=to, **described)
        trial = f"{trial_id_of(to)}/" if isinstance(to, optuna.Trial) else ""
        return f"/artifacts/{study_id_of(study)}/{trial}{artifact}"

    return upload


@pytest.fixture
def ask(study: optuna.Study, store: FileSystemArtifactStore) -> Any:
    """Status, headers and body of a request."""

    def ask(path: str, method: str = "GET", store: Any = store, **headers: str) -> tuple[int, dict[str, str], bytes]:
        app = Guard(Artifacts(dashboard, storage_of(study), store), None, False)
        environ = {"PATH_INFO": path, "REQUEST_METHOD": method, "HTTP_HOST": "localhost", **headers}
        setup_testing_defaults(environ)
        started: list[Any] = []
        answer = app(environ, lambda status, headers, exc_info=None: started.append((int(status[:3]), dict(headers))))
        body = b"".join(answer)
        if hasattr(answer, "close"):
            answer.close()
        return *started[0], body

    return ask


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize(
    ("requested", "part"),
    [
        ("bytes=0-0", slice(0, 1)),
        ("bytes=0-99", slice(0, 100)),
        ("bytes=100-199", slice(100, 200)),
        ("bytes=100-", slice(100, None)),
        (f"bytes={SIZE - 1}-", slice(SIZE - 1, None)),
        ("bytes=0-999999", slice(0, None)),
        ("bytes=-1", slice(-1, None)),
        ("bytes=-100", slice(-100, None)),
        ("bytes=-999999", slice(0, None)),
    ],
)
def test_a_range_is_that_part_of_the_file(
    ask: Any, upload: Any, monkeypatch: pytest.MonkeyPatch, requested: str, part: slice, remote: bool
) -> None:
    monkeypatch.setattr(artifact_route, "CHUNK", 64)
    path = upload()
    status, headers, body = ask(path, HTTP_RANGE=requested, **({"store": Remote(CONTENT)} if remote else {}))
    start, stop, _ = part.indices(SIZE)
    assert (status, body) == (206, CONTENT[part])
    assert headers["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert headers["Content-Length"] == str(stop - start)


@pytest.mark.parametrize("requested", ["", "bytes=", "bytes=-", "bytes=9-3", "bytes=0-1,5-9", "lines=0-1", "bytes=a-b"])
def test_without_a_single_valid_range_the_whole_file_is_sent(ask: Any, upload: Any, requested: str) -> None:
    status, headers, body = ask(upload(), HTTP_RANGE=requested)
    assert (status, body, headers["Content-Length"]) == (200, CONTENT, str(SIZE))
    assert headers["Accept-Ranges"] == "bytes"
    assert "Content-Range" not in headers


@pytest.mark.parametrize("requested", [f"bytes={SIZE}-", "bytes=5000-6000", "bytes=-0", "bytes=999999999999999999-"])
def test_a_range_beyond_the_end_is_refused_with_the_size(ask: Any, upload: Any, requested: str) -> None:
    status, headers, _ = ask(upload(), HTTP_RANGE=requested)
    assert (status, headers["Content-Range"]) == (416, f"bytes */{SIZE}")


def test_an_empty_file_has_an_empty_body(ask: Any, upload: Any) -> None:
    assert ask(upload(), store=Remote(b""))[::2] == (200, b"")
    assert ask(upload(), store=Remote(b""), HTTP_RANGE="bytes=0-")[0] == 416


def test_head_has_the_headers_of_get(ask: Any, upload: Any) -> None:
    path = upload()
    for requested in ({}, {"HTTP_RANGE": "bytes=5-8"}):
        got, head = ask(path, **requested), ask(path, "HEAD", **requested)
        assert head == (*got[:2], b"")


def test_a_cached_artifact_is_not_sent_again(ask: Any, upload: Any) -> None:
    path = upload()
    mark = ask(path)[1]["ETag"]
    assert ask(path, HTTP_IF_NONE_MATCH=mark)[::2] == (304, b"")
    assert ask(path, HTTP_RANGE="bytes=0-9", HTTP_IF_RANGE=mark)[0] == 206
    assert ask(path, HTTP_RANGE="bytes=0-9", HTTP_IF_RANGE='"other"')[::2] == (200, CONTENT)


def test_artifacts_of_running_and_ended_trials_are_served(ask: Any, upload: Any, study: optuna.Study) -> None:
    trial = study.ask()
    path = upload(to=trial)
    assert ask(path)[::2] == (200, CONTENT)
    study.tell(trial, 1.0)
    assert ask(path)[::2] == (200, CONTENT)


@pytest.mark.parametrize(
    "path",
    [
        "/artifacts",
        "/artifacts/",
        "/artifacts/{study}",
        "/artifacts/{study}/",
        "/artifacts/{study}/{unlisted}",
        "/artifacts/{study}/{trial}/{unlisted}",
        "/artifacts/{study}/{other}",  # of the trial, not of the study
        "/artifacts/{study}/{trial}/{listed}",  # of the study, not of the trial
        "/artifacts/{study}/{deleted}",
        "/artifacts/77/{listed}",
        "/artifacts/{study}/77/{other}",
        "/artifacts/{study}/999999999999999999999/{other}",
        "/artifacts/-1/{listed}",
        "/artifacts/{study}/{listed}/",
        "/artifacts/{study}/{listed}/..",
        "/artifacts/{study}/../{study}/{listed}",
        "/artifacts/{study}/../../secret.txt",
        "/artifacts/{study}/{trial}/../../../secret.txt",
        "/artifacts/{study}/..\\..\\secret.txt",
        "/artifacts/{study}//etc/passwd",
        "/artifacts/{study}/%2e%2e%2fsecret.txt",
        "/artifacts/{study}/{listed}\x00.wav",
        "/artifacts/{study}/{listed}\n",
        "/artifacts/{study}/./{listed}",
        "/artifactsx/{study}/{listed}",
        "/arti\xfffacts/{study}/{listed}",
    ],
)
def test_only_listed_artifacts_are_served(
    ask: Any, upload: Any, study: optuna.Study, tmp_path: Path, path: str
) -> None:
    trial = study.ask()
    names = {
        "study": study_id_of(study),
        "trial": trial_id_of(trial),
        "listed": upload().rpartition("/")[2],
        "other": upload(to=trial).rpartition("/")[2],
        "deleted": upload().rpartition("/")[2],
        "unlisted": "0123abcd",
    }
    storage_of(study).set_study_system_attr(study_id_of(study), f"artifacts:{names['deleted']}", json.dumps(None))
    (tmp_path / "secret.txt").write_bytes(CONTENT)
    (tmp_path / "artifacts" / "0123abcd").write_bytes(CONTENT)
    assert ask(f"/artifacts/{names['study']}/{names['listed']}")[0] == 200
    status, _, body = ask(path.format(**names))
    assert (status, CONTENT in body, b"the dashboard" in body) == (404, False, False)


def test_a_path_in_the_list_opens_no_file(ask: Any, study: optuna.Study, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_bytes(CONTENT)
    for artifact in ("../secret.txt", str(tmp_path / "secret.txt")):
        described = json.dumps({"artifact_id": artifact, "filename": "a.wav", "mimetype": "audio/wav"})
        storage_of(study).set_study_system_attr(study_id_of(study), f"artifacts:{artifact}", described)
        assert ask(f"/artifacts/{study_id_of(study)}/{artifact}")[0] == 404
    described = json.dumps({"artifact_id": "../secret.txt", "filename": "a.wav", "mimetype": "audio/wav"})
    storage_of(study).set_study_system_attr(study_id_of(study), "artifacts:0a", described)
    assert ask(f"/artifacts/{study_id_of(study)}/0a")[0] == 404  # the file 0a, which is not there


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_artifacts_cannot_be_written_here(ask: Any, upload: Any, method: str) -> None:
    assert ask(upload(), method)[0] in (403, 405)


@pytest.mark.parametrize(
    ("name", "described", "mimetype", "disposition"),
    [
        ("clip.wav", {"mimetype": "audio/wav"}, "audio/wav", "inline"),
        ("clip.flac", {"mimetype": "audio/flac"}, "audio/flac", "inline"),
        ("clip.png", {}, "image/png", "inline"),
        ("clip.jpg", {}, "image/jpeg", "inline"),
        ("page.html", {}, "text/html", "attachment"),
        ("picture.svg", {"mimetype": "image/svg+xml"}, "image/svg+xml", "attachment"),
        ("page.xhtml", {"mimetype": "application/xhtml+xml"}, "application/xhtml+xml", "attachment"),
        ("notes.txt", {}, "text/plain", "attachment"),
        ("clip.wav", {"mimetype": "audio/wav", "encoding": "gzip"}, "application/octet-stream", "attachment"),
        ("clip.wav", {"mimetype": "audio/wav\r\nSet-Cookie: a=b"}, "application/octet-stream", "attachment"),
        ("clip.wav", {"mimetype": "text/html; x=audio/wav"}, "application/octet-stream", "attachment"),
    ],
)
def test_audio_and_pictures_are_inline_and_other_types_are_attachments(
    ask: Any, upload: Any, name: str, described: dict[str, str], mimetype: str, disposition: str
) -> None:
    headers = ask(upload(name, **described))[1]
    assert headers["Content-Type"] == mimetype
    assert headers["Content-Disposition"].startswith(f'{disposition}; filename="{name}"; ')
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; ")


def test_special_characters_of_a_file_name_are_escaped(ask: Any, upload: Any) -> None:
    header = ask(upload('a"; x=\r\n ü%.html'))[1]["Content-Disposition"]
    assert header == "attachment; filename=\"a__ x___ __.html\"; filename*=UTF-8''a%22%3B%20x%3D%0D%0A%20%C3%BC%25.html"


def test_a_listed_artifact_without_a_file_is_not_found(ask: Any, upload: Any, store: FileSystemArtifactStore) -> None:
    path = upload()
    store.remove(path.rpartition("/")[2])
    status, _, body = ask(path)
    assert (status, b"its file is gone" in body) == (404, True)


def test_an_artifact_of_ours_is_served_whole_or_not_at_all(ask: Any, study: optuna.Study) -> None:
    artifact = id_of(CONTENT)
    listed = {"artifact_id": artifact, "filename": "a.wav", "mimetype": "audio/wav", "encoding": None}
    storage_of(study).set_study_system_attr(study_id_of(study), f"artifacts:{artifact}", json.dumps(listed))
    path = f"/artifacts/{study_id_of(study)}/{artifact}"
    assert ask(path, store=Remote(CONTENT))[2] == CONTENT
    status, _, body = ask(path, store=Remote(b"\1" + CONTENT[1:]))
    assert (status, b"damaged, expected the content that was stored" in body) == (404, True)


def test_an_error_of_the_store_is_logged_in_one_line(ask: Any, upload: Any, caplog: pytest.LogCaptureFixture) -> None:
    status, _, body = ask(upload(), store=Remote(ConnectionError("no route\nto secret.example")))
    assert (status, body.count(b"\n"), b"secret" in body) == (503, 1, False)
    assert "ConnectionError: no route to secret.example\n" in caplog.text


def test_other_paths_go_to_the_dashboard(ask: Any) -> None:
    assert ask("/dashboard")[2] == b"the dashboard"
    assert ask("/api/artifacts/1", "POST")[2] == b"the dashboard"

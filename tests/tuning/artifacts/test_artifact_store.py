"""Ids of artifacts hold the check sum of their content."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from optuna.artifacts import FileSystemArtifactStore
from quell_tuning.artifacts.artifact_store import has_sum, id_of, is_damaged

CONTENT = bytes(range(256))


def test_an_id_is_new_each_time_and_tells_its_content_from_damaged_content() -> None:
    ids = {id_of(CONTENT) for _ in range(50)}
    assert len(ids) == 50
    for artifact in ids:
        assert uuid.UUID(artifact).version == 8 and str(uuid.UUID(artifact)) == artifact
        assert not is_damaged(artifact, CONTENT)
        for content in (CONTENT[:-1], bytes(256), b"", b"\1" + CONTENT[1:]):
            assert is_damaged(artifact, content)


@pytest.mark.parametrize("artifact", [str(uuid.UUID(int=7, version=4)), "0a", ""])
def test_other_ids_tell_nothing(artifact: str) -> None:
    assert not has_sum(artifact) and not is_damaged(artifact, CONTENT)


def test_optuna_stores_and_finds_such_ids(tmp_path: Path) -> None:
    store, artifact = FileSystemArtifactStore(tmp_path), id_of(CONTENT)
    (tmp_path / artifact).write_bytes(CONTENT)
    with store.open_reader(artifact) as file:
        assert file.read() == CONTENT

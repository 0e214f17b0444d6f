"""What the metadata of an exported file say is checked before anything is computed with it."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest

from quell.errors import ExportError
from quell.export import exported_model
from quell.export.torchscript import METADATA

WHOLE = "expected a whole number from"


def with_metadata(model: Path, target: Path, change: dict[str, Any]) -> Path:
    """The exported file with other metadata; keys of `blocks` go there."""
    content = io.BytesIO()
    with zipfile.ZipFile(model) as archive, zipfile.ZipFile(content, "w") as changed:
        for name in archive.namelist():
            record = archive.read(name)
            if name.endswith(f"/{METADATA}"):
                metadata = json.loads(record)
                for key, value in change.items():
                    (metadata["blocks"] if key in metadata["blocks"] else metadata)[key] = value
                record = json.dumps(metadata).encode()
            changed.writestr(name, record)
    target.write_bytes(content.getvalue())
    return target


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"sample_rate": 0}, f"sample_rate 0, {WHOLE} 1000 to 1000000"),
        ({"sample_rate": "16000"}, f"sample_rate '16000', {WHOLE}"),
        ({"sample_rate": 8000.0}, f"sample_rate 8000.0, {WHOLE}"),
        ({"block": 0}, f"block 0, {WHOLE} 1 to"),
        ({"block": -32_000}, f"block -32000, {WHOLE} 1 to"),
        ({"block": True}, f"block True, {WHOLE}"),
        ({"block": 10**12}, f"block 1000000000000, {WHOLE}"),
        ({"block": None}, f"block None, {WHOLE}"),
        ({"grid": 0}, f"grid 0, {WHOLE} 1"),
        ({"grid": 999_983}, "expected a multiple of 999983"),
        ({"margin": -1}, f"margin -1, {WHOLE} 0"),
        ({"context": 10**9}, f"context 1000000000, {WHOLE} 0"),
        ({"state_units": 10**9}, f"state_units 1000000000, {WHOLE} 0"),
        ({"state_units": [1]}, rf"state_units \[1\], {WHOLE} 0"),
    ],
)
def test_metadata_that_no_export_writes_are_one_line(
    tmp_path: Path, model: Path, change: dict[str, Any], problem: str
) -> None:
    path = with_metadata(model, tmp_path / "theirs.pt", change)
    with pytest.raises(ExportError, match=rf"^{re.escape(str(path))}: .*{problem}.*; export it again$"):
        exported_model.load(path)


def test_other_metadata_are_not_an_exported_denoiser(tmp_path: Path, model: Path) -> None:
    for change in ({"blocks": 7}, {"blocks": {}}):
        with pytest.raises(ExportError, match=r"theirs\.pt: not an exported denoiser"):
            exported_model.load(with_metadata(model, tmp_path / "theirs.pt", change))
    assert exported_model.load(with_metadata(model, tmp_path / "same.pt", {})).sample_rate == 8_000

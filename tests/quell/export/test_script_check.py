"""A TorchScript file that reaches beyond its process is refused before any of it runs; one that computes is loaded."""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from quell.errors import ExportError
from quell.evaluation import external_models
from quell.export import exported_model
from quell.export.script_check import read_checked

TARGET = "/nowhere/of.quell"


class Saves(nn.Module):
    def forward(self, noisy: Tensor) -> Tensor:
        torch.save(noisy, "/nowhere/of.quell")
        return noisy


class Maps(nn.Module):
    def forward(self, noisy: Tensor) -> Tensor:
        return noisy + torch.from_file("/nowhere/of.quell", True, 1)


class SavesWhenLoaded(nn.Module):
    """Its program runs in `torch.jit.load`."""

    def forward(self, noisy: Tensor) -> Tensor:
        return noisy

    @torch.jit.export
    def __getstate__(self) -> tuple[int, bool]:
        return 1, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[int, bool]) -> None:
        self.training = state[1]
        torch.save(torch.zeros(1), "/nowhere/of.quell")


def scripted(module: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(module).save(str(path))
    return path


def edited(path: Path, old: str, new: str) -> Path:
    """The same archive with another program."""
    content = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(content, "w") as target:
        for name in archive.namelist():
            record = archive.read(name)
            target.writestr(name, record.replace(old.encode(), new.encode()) if name.endswith(".py") else record)
    path.write_bytes(content.getvalue())
    return path


@pytest.mark.parametrize(
    ("module", "call"),
    [(Saves(), "save"), (Maps(), "from_file"), (SavesWhenLoaded(), "save")],
    ids=lambda one: str(one),
)
def test_a_program_that_saves_or_maps_files_is_refused_wherever_it_is_loaded(
    tmp_path: Path, module: nn.Module, call: str
) -> None:
    path = scripted(module, tmp_path / "theirs.pt")
    expected = f"{path}: its program calls {call}, expected one that only computes; do not use it"
    for load in (exported_model.load, external_models.system):
        with pytest.raises(ExportError, match=f"^{re.escape(expected)}$"):
            load(path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("m = torch\n    return m.add(noisy, noisy)", "hides names of torch"),
        ('return getattr(torch, "s" "ave")(noisy, "x")', "hides names of torch"),
        ('return getattr(ops.aten, "s\\x61ve")(noisy, "x")', "uses operators of ops"),
        ("o = ops\n    return noisy", "uses operators of ops"),
        ("return ops.debugprims.load_tensor(noisy)", "uses operators of debugprims"),
        ("return torch.  save(noisy)", "calls save"),
        ("x : __torch__.torch.classes.dist_c10d.Store = y\n    return noisy", "uses classes of dist_c10d"),
    ],
)
def test_names_cannot_be_hidden_from_the_check(tmp_path: Path, text: str, problem: str) -> None:
    path = edited(scripted(nn.Identity(), tmp_path / "theirs.pt"), "return input", text)
    with pytest.raises(ExportError, match=f"its program {problem}, expected one that only computes"):
        read_checked(path)


def test_a_program_that_computes_is_loaded_from_the_bytes_that_were_checked(tmp_path: Path, model: Path) -> None:
    path = scripted(nn.Sequential(nn.Conv1d(1, 1, 3, padding=1), nn.ReLU()), tmp_path / "theirs.pt")
    assert read_checked(path).getvalue() == path.read_bytes()
    assert read_checked(model).getvalue() == model.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.jit.load(read_checked(path))(torch.zeros(1, 1, 8)).shape == (1, 1, 8)

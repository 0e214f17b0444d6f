"""docs/architecture.md: its files exist, and its picture and tables have the packages that the layers have."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
SOURCES = {"quell": ROOT / "src" / "quell", "quell_tuning": ROOT / "tuning" / "quell_tuning"}


def layers() -> dict[str, list[list[str]]]:
    """Packages by layer, from the ground up, as tests/test_layers.py enforces them."""
    tree = ast.parse((ROOT / "tests" / "test_layers.py").read_text(encoding="utf-8"))
    (value,) = (
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LAYERS"
    )
    found: dict[str, list[list[str]]] = ast.literal_eval(value)
    return found


def section(heading: str) -> str:
    return TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize(("heading", "least"), [("To change X, open Y", 17), ("Private names of other packages", 4)])
def test_every_file_of_the_tables_exists(heading: str, least: int) -> None:
    rows = [line for line in section(heading).splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= least
    for row in rows:
        files = re.findall(r"`([\w/]+\.py)`", row.split("|")[2])
        assert files, row
        for file in files:
            assert (ROOT / file).is_file(), row


def test_every_file_on_the_way_of_the_data_exists() -> None:
    files = re.findall(r"`([\w/]+\.py)`", section("The way of the data"))
    assert files
    for file in files:
        assert any((folder / file).is_file() for folder in SOURCES.values()), file


@pytest.mark.parametrize("top", SOURCES)
def test_the_picture_shows_the_layers_that_are_enforced(top: str) -> None:
    picture = section("Layers").split(f"subgraph {top}\n")[1].split("end\n")[0]
    shown = [set(names.split(" · ")) for names in re.findall(r'\w\d\["(.+)"\]', picture)]
    assert shown.pop() <= {path.stem for path in SOURCES[top].glob("[!_]*.py")}  # the ground: modules, not packages
    expected = [set(names) for names in layers()[top]]
    assert shown == expected[:0:-1]
    order = re.findall(r"\w(\d)", picture.splitlines()[-2])
    assert order == [str(number) for number in reversed(range(len(expected)))]  # arrows point down


@pytest.mark.parametrize("top", SOURCES)
def test_every_package_has_a_role(top: str) -> None:
    table = section("Packages").split(f"| `{top}.` |")[1].split("\n\n")[0]
    described = re.findall(r"^\| `(\w+)` \| \S", table, flags=re.MULTILINE)
    packages = {path.parent.name for path in SOURCES[top].glob("*/__init__.py")}
    assert sorted(described) == sorted(packages)

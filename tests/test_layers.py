"""Imports point one way: a module imports its own package and the layers below it, also for types and in functions."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the ground up. Packages of one layer do not know one another; "" are the modules beside the packages.
LAYERS = {
    "quell": [
        [""],
        ["child_processes", "containers", "network"],
        ["audio"],
        ["corpus", "datasets", "metrics", "export"],
        ["audit", "mixing", "inference"],
        ["training", "evaluation"],
    ],
    "quell_tuning": [
        [""],
        ["study", "storage"],
        ["workspace", "evaluation"],
        ["artifacts"],
        ["trials", "recordings"],
        ["results", "export"],
        ["dashboard", "report"],
        ["workers"],
        ["cli"],
    ],
}
FOLDERS = {"quell": ROOT / "src" / "quell", "quell_tuning": ROOT / "tuning" / "quell_tuning"}
SMALLEST, LARGEST = 3, 10  # modules of a package
MODULES = {
    ".".join((top, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__"): path
    for top, folder in FOLDERS.items()
    for path in sorted(folder.rglob("*.py"))
}
# Faces of packages that hand names on to other packages.
FACES = ("quell", "quell.audio")


def package_of(module: str) -> tuple[str, str]:
    """("quell", "audio") of `quell.audio.reader`, ("quell", "") of `quell.errors`."""
    top, *inner = module.split(".")
    known = {name for layer in LAYERS[top] for name in layer}
    return top, inner[0] if inner and inner[0] in known else ""


def layer(top: str, package: str) -> int:
    return next(number for number, names in enumerate(LAYERS[top]) if package in names)


def imported(path: Path) -> set[str]:
    """Everything of ours that a file imports, as dotted names; of `from a import b` it is `a.b`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in (*LAYERS, "tests", "tuning")}


@pytest.mark.parametrize("module", [name for name in MODULES if name not in LAYERS])
def test_a_module_imports_its_own_package_and_lower_layers_only(module: str) -> None:
    top, own = package_of(module)
    for name in imported(MODULES[module]):
        assert name.split(".")[0] in LAYERS, f"{module}: imports {name}"
        other_top, other = package_of(name)
        if other_top != top:
            assert top == "quell_tuning", f"{module}: imports {name}; quell knows nothing of a search"
        elif other != own:
            assert layer(top, other) < layer(top, own), f"{module}: imports {name}, expected a layer below {own!r}"


@pytest.mark.parametrize("top", LAYERS)
def test_every_package_is_in_a_layer_and_has_three_to_ten_modules(top: str) -> None:
    packages = {path.parent for path in FOLDERS[top].rglob("__init__.py")} - {FOLDERS[top]}
    assert {package.name for package in packages} == {name for names in LAYERS[top] for name in names} - {""}
    for package in packages:
        modules = [path.name for path in package.glob("*.py") if path.name != "__init__.py"]
        assert SMALLEST <= len(modules) <= LARGEST, f"{package.name}: {len(modules)} modules, expected 3 to 10"


def test_no_modules_import_one_another_in_a_circle() -> None:
    graph = {}
    for module, path in MODULES.items():
        if path.name != "__init__.py":
            names = imported(path)
            graph[module] = {full for name in names for full in (name, name.rpartition(".")[0]) if full in MODULES}
            graph[module] -= {module, *FACES}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_the_first_line_of_a_package_is_its_role_and_it_holds_nothing_else() -> None:
    for module, path in MODULES.items():
        if path.name == "__init__.py" and module not in FACES:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            assert ast.get_docstring(tree), f"{module}: no docstring, expected its role"
            assert len(tree.body) == 1, f"{module}: code beside the docstring, expected it in a module"

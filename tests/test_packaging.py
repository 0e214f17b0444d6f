"""What is installed: the wheel holds all that the program needs and nothing else; files about the project are valid."""

import re
import shutil
import subprocess
import sys
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from zipfile import ZipFile

import pytest

import quell

ROOT = Path(__file__).parents[1]
PACKAGES = {"quell": "src/quell", "quell_tuning": "tuning/quell_tuning", "quell_tuning/studies": "studies"}
BUILT = ("*.egg-info", "__pycache__")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    """The wheel, built without network. In a copy: setuptools packs what an earlier build left in build/ too."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("src", "tuning", "studies"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(*BUILT))
    code = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    built = subprocess.run([sys.executable, "-c", code, "dist"], cwd=folder, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (path,) = (folder / "dist").glob("*.whl")
    return ZipFile(path)


@pytest.fixture(scope="module")
def metadata(wheel: ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return message_from_bytes(wheel.read(name))


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: ZipFile) -> None:
    expected = {
        f"{package}/{path.relative_to(ROOT / folder).as_posix()}"
        for package, folder in PACKAGES.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in wheel.namelist() if ".dist-info/" not in name} == expected
    assert {"quell/models/quell-16k.pt", "quell_tuning/studies/demo.toml"} <= expected


def test_the_wheel_says_its_version_licence_and_program(wheel: ZipFile, metadata: Message) -> None:
    assert metadata["Version"] == quell.__version__
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Author"] == "Quell contributors"
    info = f"quell_denoiser-{quell.__version__}.dist-info"
    for name in ("LICENSE", "NOTICE"):
        assert wheel.read(f"{info}/licenses/{name}") == (ROOT / name).read_bytes()
    assert "quell = quell_tuning." in wheel.read(f"{info}/entry_points.txt").decode()


def test_an_extra_that_a_message_names_exists(metadata: Message) -> None:
    texts = [path.read_text() for folder in PACKAGES.values() for path in (ROOT / folder).rglob("*.py")]
    texts += [path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))]
    named = {extra for text in texts for extra in re.findall(r"quell-denoiser\[([\w-]+)\]", text)}
    assert named <= set(metadata.get_all("Provides-Extra", []))


@pytest.mark.parametrize(
    ("schema", "path"),
    [("vendor.citation-file-format", "CITATION.cff"), ("vendor.github-workflows", ".github/workflows/ci.yml")],
)
def test_files_for_others_are_valid_by_their_schemas(schema: str, path: str) -> None:
    pytest.importorskip("check_jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(ROOT / path)]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_the_changelog_has_the_version() -> None:
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert quell.__version__ in versions


def test_every_package_that_is_installed_is_pinned(metadata: Message) -> None:
    needed = {re.split(r"[\[<>=; ]", text)[0].lower() for text in metadata.get_all("Requires-Dist", [])}
    pinned = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert needed - {"quell-denoiser"} <= pinned

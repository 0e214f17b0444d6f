"""Study files of the package: listed, and found by name."""

from pathlib import Path

import pytest
from quell_tuning.study.bundled_studies import bundled, find, purpose
from quell_tuning.study.study_file import load

STUDIES = Path(__file__).parents[3] / "studies"


def test_the_package_holds_the_repositorys_study_files_under_their_studies_names() -> None:
    assert {name: file.read_text() for name, file in bundled().items()} == {
        file.stem: file.read_text() for file in STUDIES.glob("*.toml")
    }
    assert {name: load(file).study.name for name, file in bundled().items()} == {name: name for name in bundled()}


@pytest.mark.parametrize("name", bundled())
def test_the_first_line_of_a_study_file_is_a_sentence_of_its_own(name: str) -> None:
    assert purpose(bundled()[name]).endswith(".")
    assert len(purpose(bundled()[name])) <= 120


def test_a_name_is_the_file_here_then_in_studies_then_in_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    demo = Path("demo")
    assert find(demo) == bundled()["demo"]
    demo.mkdir()  # a folder is no study file
    assert find(demo) == bundled()["demo"]
    local = tmp_path / "studies" / "demo.toml"
    local.parent.mkdir()
    local.write_text("mine")
    assert find(demo) == Path("studies/demo.toml")
    demo.rmdir()
    demo.write_text("mine")
    assert find(demo) == demo


@pytest.mark.parametrize("given", ["nobodys", "demo.toml", "elsewhere/demo", "/demo"])
def test_what_is_no_name_of_a_study_file_stays_as_it_is(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find(Path(given)) == Path(given)

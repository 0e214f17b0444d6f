"""README and docs: everything they name exists, and every setting is in them."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import typer
from quell_tuning.cli import app
from quell_tuning.formatting import parameter_value
from quell_tuning.study import presets, sections
from quell_tuning.study.parameters import DEFAULTS, PARAMETERS, Parameter

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
TEXT = {page: page.read_text(encoding="utf-8") for page in PAGES}
SEARCH_SPACE, RECORDINGS, ENVIRONMENT = (
    TEXT[ROOT / "docs" / f"{name}.md"] for name in ("search-space", "recordings", "environment")
)
PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def _row(parameter: Parameter) -> str:
    values = re.sub(r"\w+", r"`\g<0>`", parameter.legal) if parameter.names else parameter.legal
    return f"| `{parameter.name}` | {values} | {parameter_value(DEFAULTS[parameter.name])} | {parameter.meaning} |"


def test_the_table_of_parameters_equals_that_of_the_code() -> None:
    section = SEARCH_SPACE.split("## Parameters")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert rows == list(map(_row, PARAMETERS.values()))


def test_every_preset_is_named() -> None:
    assert set(presets.PRESETS) <= set(re.findall(r"`([\w-]+)`", SEARCH_SPACE))


def test_every_key_of_corpus_and_training_is_explained() -> None:
    keys = {*sections.CorpusSection.model_fields, *sections.TrainingSection.model_fields}
    assert {key for key in keys if not re.search(rf"\b{key}\b", RECORDINGS)} == set()


def test_every_environment_variable_is_listed() -> None:
    folders = ("src", "tuning", "deploy", "benchmarks", "tests")
    files = [
        path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".sh", ".yaml")
    ]
    files += [ROOT / name for name in (".env.example", "docker-compose.yml", "Dockerfile")]
    used = {name for file in files for name in re.findall(r"\bQUELL_[A-Z_]*[A-Z]\b", file.read_text(encoding="utf-8"))}
    assert used == set(re.findall(r"`(QUELL_\w+)`", ENVIRONMENT))


def _commands(text: str) -> Iterator[list[str]]:
    """The words after `quell` of every command in blocks and in inline code."""
    prose, *blocks = re.split(r"^```", text, flags=re.MULTILINE)
    prose += "".join(blocks[1::2])
    lines = [line for block in blocks[::2] for line in block.splitlines()]
    for command in [*lines, *re.findall(r"`([^`\n]+)`", prose)]:
        if command.startswith("quell "):
            yield shlex.split(command, comments=True)[1:]


@PAGE
def test_every_command_and_option_it_shows_exists(page: Path) -> None:
    for words in _commands(TEXT[page]):
        command: Any = typer.main.get_command(app.app)
        names = list(takewhile(lambda word: not word.startswith("-"), words))
        while names and hasattr(command, "commands"):
            assert names[0] in command.commands, " ".join(words)
            command = command.commands[names.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        shown = {word for word in words if re.fullmatch(r"-\w|--[\w-]+", word)}
        assert shown <= known, " ".join(words)


def test_readme_shows_all_commands_from_a_study_to_a_denoised_recording() -> None:
    shown = [words[0] for words in _commands(TEXT[README])]
    assert {"studies", "corpus", "tune", "status", "export", "denoise", "evaluate"} <= set(shown)


def test_readme_begins_with_a_picture_results_and_how_to_install_and_denoise() -> None:
    begin = "\n".join(TEXT[README].splitlines()[:25])
    assert re.search(r"^!\[.{20,}\]\(docs/images/", begin, flags=re.MULTILINE)
    assert all(part in begin for part in ("| PESQ |", "| RNNoise |", "pip install", "quell denoise"))
    assert len(TEXT[README].split()) < 1500


def _slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@PAGE
def test_every_relative_link_and_image_exists(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXT[page]):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in map(_slug, headings), target


@PAGE
def test_every_extra_it_names_exists(page: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = re.findall(r"(?:quell-denoiser|'\.)\[([\w,-]+)\]", TEXT[page])
    assert {extra for names in named for extra in names.split(",")} <= set(extras)

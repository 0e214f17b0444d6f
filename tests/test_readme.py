"""The README names what exists, and nothing else."""

import re
from pathlib import Path

from quell_tuning.cli import app
from quell_tuning.study import search_space, sections

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_every_searched_parameter_is_in_the_table_and_no_other() -> None:
    table = README.split("## What is searched")[1].split("## ")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} == set(search_space.PARAMETERS)


def test_every_command_it_shows_exists() -> None:
    known = {command.callback.__name__ for command in app.app.registered_commands if command.callback}
    known |= {str(group.name) for group in app.app.registered_groups}
    shown = set(re.findall(r"^\.venv/bin/quell (\w+)", README, flags=re.MULTILINE))
    assert shown <= known
    assert {"tune", "status", "export", "denoise", "evaluate"} <= shown


def test_every_key_of_corpus_and_training_is_told() -> None:
    told = README + (Path(__file__).parents[1] / "docs" / "recordings.md").read_text()
    keys = {*sections.CorpusSection.model_fields, *sections.TrainingSection.model_fields}
    assert {key for key in keys if not re.search(rf"\b{key}\b", told)} == set()

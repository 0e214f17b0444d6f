"""Pydantic's ValidationError of a study file as one line: key, found, expected."""

import difflib
from collections.abc import Iterable

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from quell_tuning.study import search_space

# Pydantic's words -> what the line says; "" for none.
WORDS = {
    "Input should be ": "",
    "List should have ": "",
    "String should ": "",
    "valid ": "",
    "a integer": "a whole number",
}


def first_problem(error: ValidationError, model: type[BaseModel]) -> str:
    """The first error of a model's validation as `<key>: <found>, expected <needed>`; unknown keys come first."""
    problem = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    path = _path(problem)
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        parent, _, name = key.rpartition(".")
        text = unknown_key(name, _keys(model, path[:-1]))
        return f"{parent}.{text}" if parent else text
    if problem["type"] == "missing":
        return f"{key}: missing, expected a value; add it"
    if problem["type"] == "value_error":
        text = str(problem["ctx"]["error"])
        section = path[0] if path else ""
        return f"{section}.{text}" if section in ("study", "corpus", "training") else f"{key}: {text}" if key else text
    if path[0] == "search" and "fixed" in problem["loc"]:
        return f"search.{path[1]}: {_input(problem)}, expected a value, {{ choices = [...] }} or {{ low, high }}"
    needed = problem["msg"]
    for theirs, ours in WORDS.items():
        needed = needed.replace(theirs, ours)
    return f"{key}: {_input(problem)}, expected {needed}"


def _path(problem: ErrorDetails) -> list[str]:
    """Keys from the section to the one with the problem, without pydantic's names of alternatives."""
    path = [str(part) for part in problem["loc"]]
    if path[:1] == ["search"]:
        return [part for index, part in enumerate(path) if index != 2 or part not in search_space.DOMAIN_TAGS]
    return path[:2] if path[:2] == ["study", "score"] else path


def _input(problem: ErrorDetails) -> str:
    text = repr(problem["input"])
    return text if len(text) <= 60 else f"{text[:57]}..."


def unknown_key(name: str, known: Iterable[str]) -> str:
    """The text for a key that does not exist, with the nearest one that does."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else "remove it"
    return f"{name}: unknown key, expected one of {', '.join(names)}; {hint}"


def _keys(model: type[BaseModel], path: list[str]) -> list[str]:
    """The keys that a section, or a domain of the search, may have."""
    if path[:1] == ["search"]:
        return ["choices", *search_space.Range.model_fields]
    section = model.model_fields[path[0]].annotation if path else model
    assert isinstance(section, type) and issubclass(section, BaseModel), "sections are models"
    return list(section.model_fields)

"""What pydantic finds wrong with a study file, in one line: key, found, needed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from quell_tuning.study import search_space


def first_objection(error: ValidationError, of: type[BaseModel]) -> str:
    """The first thing wrong as `<key>: <found>, expected <needed>`; errors about unknown keys come first."""
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    problem = problems[0]
    place = [str(part) for part in problem["loc"]]
    if place[:1] == ["search"]:
        place = [part for index, part in enumerate(place) if not (index == 2 and part in search_space.DOMAIN_TAGS)]
    if place[:2] == ["study", "score"]:
        place = place[:2]  # without the alternative of its type
    key = ".".join(place)
    if problem["type"] == "extra_forbidden":
        parent, _, name = key.rpartition(".")
        text = unknown_key(name, _keys(of, place[:-1]))
        return f"{parent}.{text}" if parent else text
    if problem["type"] == "missing":
        return f"{key}: missing, expected a value; add it"
    if problem["type"] == "value_error":
        text = str(problem["ctx"]["error"])
        section = problem["loc"][0] if problem["loc"] else ""
        return f"{section}.{text}" if section in ("study", "corpus", "training") else f"{key}: {text}" if key else text
    if place[0] == "search" and "fixed" in problem["loc"]:
        return f"search.{place[1]}: {_shown(problem)}, expected a value, {{ choices = [...] }} or {{ low, high }}"
    needed = problem["msg"]
    for wordy, plain in (("Input should be ", ""), ("List should have ", ""), ("String should ", ""), ("valid ", "")):
        needed = needed.replace(wordy, plain)
    return f"{key}: {_shown(problem)}, expected {needed.replace('a integer', 'a whole number')}"


def _shown(problem: ErrorDetails) -> str:
    text = repr(problem["input"])
    return text if len(text) <= 60 else f"{text[:57]}..."


def unknown_key(name: str, known: Iterable[str]) -> str:
    """That nobody knows the key, and the nearest one that is known."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else "remove it"
    return f"{name}: unknown key, expected one of {', '.join(known)}; {hint}"


def _keys(model: type[BaseModel], place: list[str]) -> list[str]:
    if place[:1] == ["search"]:
        return ["choices", "low", "high", "log", "step"]
    for part in place:
        section = model.model_fields[part].annotation
        assert isinstance(section, type) and issubclass(section, BaseModel), "sections are models"
        model = section
    return list(model.model_fields)

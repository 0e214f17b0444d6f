"""What notes are put together from, in GitHub's Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

# The dashboard sets columns side by side without a gap.
GAP = "\N{EM SPACE}"


def page(heading: str, lead: str, sections: Mapping[str, str]) -> str:
    """A heading, a first paragraph, and the sections that have something to say."""
    parts = [f"## {escape(heading)}", lead, *(f"### {name}\n\n{text}" for name, text in sections.items() if text)]
    return "\n\n".join(filter(None, parts)) + "\n"


def escape(text: str) -> str:
    """A text that Markdown shows as it is, in one line."""
    return re.sub(r"([\\`*_{}\[\]<>#|~!&])", r"\\\1", " ".join(text.split()))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The columns that have something in any row: the first to the left, the others, being numbers, to the right."""
    used = [column for column in range(len(header)) if any(row[column] for row in rows)]
    lines = [header, [":---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(_row([line[column] for column in used]) for line in lines) if used else ""


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for files, where a viewer leaves gaps between columns: all to the left, none left out."""
    first, *others = (f"| {' | '.join(cells)} |" for cells in [header, *rows])
    return "\n".join([first, f"|{'---|' * len(header)}", *others])


def fact_table(rows: Sequence[tuple[str, str]]) -> str:
    """A table of (what, words), both to the left; what is not known is left out."""
    lines = [_row([what, escape(words)]) for what, words in rows if words]
    return "\n".join(["| | |", "| :--- | :--- |", *lines]) if lines else ""


def _row(cells: Sequence[str]) -> str:
    gap = "" if cells[-1].startswith("---") else GAP
    return f"| {f' | {gap}'.join(cells)} |"


def code_block(lines: Sequence[str]) -> str:
    """Lines to be typed."""
    return "\n".join(["```", *lines, "```"])

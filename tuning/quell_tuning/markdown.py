"""Pages, tables and escaping in GitHub's Markdown."""

import re
from collections.abc import Mapping, Sequence

# Between columns, where optuna-dashboard leaves no gap.
GAP = "\N{EM SPACE}"


def page(heading: str, lead: str, sections: Mapping[str, str]) -> str:
    """A heading, a first paragraph, and the sections that are not empty."""
    parts = [f"## {escape(heading)}", lead, *(f"### {name}\n\n{text}" for name, text in sections.items() if text)]
    return "\n\n".join(filter(None, parts)) + "\n"


def escape(text: str) -> str:
    """A text in one line that Markdown shows literally."""
    return re.sub(r"([\\`*_{}\[\]<>#|~!&])", r"\\\1", " ".join(text.split()))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table without its empty columns: the first is left-aligned, the others, numbers, right-aligned."""
    filled = [column for column in range(len(header)) if any(row[column] for row in rows)]
    lines = [header, [":---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(_row([line[column] for column in filled]) for line in lines) if filled else ""


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for files, whose viewers leave gaps between columns: left-aligned, empty columns included."""
    first, *others = (f"| {' | '.join(cells)} |" for cells in [header, *rows])
    return "\n".join([first, f"|{'---|' * len(header)}", *others])


def fact_table(rows: Sequence[tuple[str, str]]) -> str:
    """A left-aligned table of (name, value) without the rows whose value is empty."""
    lines = [_row([name, escape(value)]) for name, value in rows if value]
    return "\n".join(["| | |", "| :--- | :--- |", *lines]) if lines else ""


def _row(cells: Sequence[str]) -> str:
    gap = "" if cells[-1].startswith("---") else GAP
    return f"| {f' | {gap}'.join(cells)} |"


def code_block(lines: Sequence[str]) -> str:
    """Lines of code or commands."""
    return "\n".join(["```", *lines, "```"])

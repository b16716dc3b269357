"""The table of encoders in docs/encoders.md, from the registry of kinds and their families.

`python -m embedstore.encoders.lines docs/encoders.md` writes it into the page. A kind that wants lines has a
method `lines()`.
"""

from __future__ import annotations

import sys
from dataclasses import astuple, dataclass, fields
from pathlib import Path

BEGIN = "<!-- table: python -m embedstore.encoders.lines docs/encoders.md writes it -->\n"
END = "<!-- end of table -->"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line: what is written to name such encoders, what is stored, and what the tests build.

    `width` is a field of the model's configuration, or of the model.
    """

    spec: str
    tokens: str
    width: str
    pooled: str
    tested: str


def lines() -> list[Line]:
    """The lines of every kind in the registry, images before texts."""
    from embedstore.encoders.table import KINDS

    kinds = (KINDS.load(name)() for name in KINDS.names())
    return [line for kind in kinds if hasattr(kind, "lines") for line in kind.lines()]


def table() -> str:
    """The table in Markdown, with its last line's break."""
    names = {"tested": "tested with"}
    heads = [names.get(column.name, column.name) for column in fields(Line)]
    rows = [heads, ["---"] * len(heads), *(astuple(line) for line in lines())]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def with_table(page: str) -> str:
    """A page with the table in its place."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{begin}\n{table()}\n{end}{after}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_table(path.read_text(encoding="utf-8")), encoding="utf-8")

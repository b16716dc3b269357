"""docs/sources.md names every kind of source and no other."""

from __future__ import annotations

import re
from pathlib import Path

from embedstore.sources import SOURCES

PAGE = Path(__file__).parents[2] / "docs" / "sources.md"


def test_the_page_lists_every_kind():
    listed = re.findall(r"^\| `([a-z]+):", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(set(listed)) == SOURCES.names()

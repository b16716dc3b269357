"""docs/policies.md: its table is what the arrays of a header come to."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from embedstore.store import plan_feature
from embedstore.testing.stores import random_card, random_plan

PAGE = Path(__file__).parents[2] / "docs" / "policies.md"
LINE = re.compile(r"^\| `(\S+)` \| (\d+) \| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \|$", re.MULTILINE)
LINES = LINE.findall(PAGE.read_text(encoding="utf-8"))


def stored(policy):
    card = random_card("image", width=1024, tokens=256, prefix=1)
    header = plan_feature(name="x", plan=random_plan(images=1, captions=0), card=card, policy=policy)
    nbytes = sum(math.prod(a.shape[1:]) * np.dtype(a.dtype).itemsize for a in header.arrays)
    return header.array("tokens").shape[1], nbytes


@pytest.mark.parametrize(("policy", "tokens", "nbytes", "terabytes", "smaller"), LINES)
def test_a_line_of_the_table(policy, tokens, nbytes, terabytes, smaller):
    found = stored(policy)
    assert found == (int(tokens), int(nbytes.replace(",", "")))
    assert float(terabytes) == round(found[1] * 17e6 / 1e12, 2)
    assert float(smaller) == round(stored("float16")[1] / found[1], 1)


def test_the_table_is_there():
    assert len(LINES) == 24

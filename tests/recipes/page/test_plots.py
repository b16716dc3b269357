"""Names from strangers in plots."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from embedstore.recipes.page.plots import Curve, confusion_plot, line_plot, scatter_plot

ODD = ["_hidden", "bell\x07", "nul\x00", "last\ufffe", "two\nlines", "</svg><script>", "$x^2$", "$\\frac{"]


@pytest.mark.parametrize("name", ODD)
def test_any_name_stands_in_a_drawing_that_can_be_read(name):
    drawn = [
        confusion_plot(np.eye(2, dtype=int), [name, "b"], sizes=np.ones(2, int), title="t"),
        scatter_plot(np.eye(2), np.arange(2), [name, "b"], title="t", note="n"),
        line_plot({n: Curve(x=[1, 2], y=[k, 2]) for k, n in enumerate([name, "b"])}, title="t", x="x", y="y"),
    ]
    shown = name.translate({0x07: 0xFFFD, 0x00: 0xFFFD, 0xFFFE: 0xFFFD, 0x0A: 0x20})
    for plot in drawn:
        tree = ET.fromstring(plot.svg)  # noqa: S314 - drawn here
        words = [(e.text or "").strip() for e in tree.iter()]
        assert shown in words
        assert "b" in words

"""The scatter plot of `bench ease`."""

from xml.etree import ElementTree as ET

import pytest

from embedstore.documents import EasePoint, EaseReport, Figure
from embedstore.errors import MissingExtraError
from embedstore.recipes.ease_plot import ease_plot, ease_svg
from embedstore.recipes.page.standalone import needed_for_plots


def report(points, value=-0.5):
    figure = Figure(value=value, low=value - 0.1, high=value + 0.1)
    return EaseReport(
        points=tuple(points),
        metrics={"cka": {"pearson": figure}},
        vectors=32,
        iterations=500,
        lr=0.01,
        temperature=0.07,
    )


def point(k, **names):
    return EasePoint(cka=0.1 * k, cka_unbiased=0.1 * k, loss=2.0**-k, **names)


def test_pairs_have_a_colour_an_image_encoder_and_the_name_of_the_text_encoder():
    pairs = [point(k, image=f"eye{k % 2}", text=f"words{k}") for k in range(1, 5)]
    svg = ease_svg(report(pairs))
    root = ET.fromstring(svg)  # noqa: S314 - our own
    assert root.find("{http://www.w3.org/2000/svg}title").text == "CKA and the lowest loss: r = -0.50"
    words = "".join(root.itertext())
    assert all(name in words for name in ("eye0", "eye1", "words1", "linear CKA", "after 500 steps"))
    assert svg.count("#0b5cad") >= 2
    assert svg.count("#b54708") >= 2


def test_many_points_are_not_named():
    plot = ease_plot(report([point(k % 9, image="eye", text=f"words{k}") for k in range(30)]))
    assert "words3" not in plot.svg
    assert "30 points" in plot.alt


def test_without_a_plotting_library_the_install_line_is_told(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match="embedstore"):
        needed_for_plots()

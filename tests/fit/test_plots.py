"""Charts: well-formed, where the figures are, and cheap enough to be always there."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from embedstore.fit.files import FitLog
from embedstore.fit.plots import sweep_chart, write_curves
from embedstore.fit.svg import Line, Panel, _number, _ticks, chart
from embedstore.fit.sweep_report import SweepMember

SVG = "{http://www.w3.org/2000/svg}"


def parsed(svg):
    return ET.fromstring(svg)  # noqa: S314 - written here


def words(svg):
    return [node.text for node in parsed(svg).iter(f"{SVG}text")]


def member(name, varied, recall=None, losses=(3.0, 2.0), status="fitted"):
    curve = tuple(
        {"epoch": n, "loss": loss} | ({"recall@1": {"a": recall * n, "b": recall * n}} if recall else {})
        for n, loss in enumerate(losses, 1)
    )
    both = {"a": 2 * recall, "b": 2 * recall} if recall else None
    return SweepMember(
        name=name, varied=varied, status=status, epochs=2, kept_epoch=2, recall=both, curve=curve
    )


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 4, [0, 1, 2, 3, 4]),
        (0.03, 0.071, [0.02, 0.04, 0.06, 0.08]),
        (5, 5, [2, 4, 6, 8]),
        (-3, 9, [-5, 0, 5, 10]),
    ],
)
def test_ticks_are_round_and_hold_the_ends(low, high, ticks):
    assert _ticks(low, high) == pytest.approx(ticks)


def test_numbers_have_the_digits_that_their_ticks_need():
    assert [_number(v, [0.02, 0.04]) for v in (0.02, 0.04)] == ["0.02", "0.04"]
    assert _number(3.0, [1.0, 2.0, 3.0]) == "3"
    assert _number(1e-7, [1e-7, 2e-7]) == "1e-07"


def test_a_line_goes_through_its_points():
    svg = chart(
        [Panel(title="t", x="x", lines=[Line(name="a", points=[(0, 0), (1, 4), (2, float("nan"))])])],
        title="c",
    )
    paths = [n.get("d") for n in parsed(svg).iter(f"{SVG}path") if n.get("stroke-width") == "1.8"]
    assert paths == ["M56.0 206.0 364.0 34.0"]
    assert words(svg)[:2] == ["c", "t"]


def test_names_are_escaped_and_long_ones_lean():
    names = ["<b>&", "a name that is far too long for its place", "c"]
    svg = chart(
        [Panel(title="t", x="x", names=names, lines=[Line(name="a", dots=[(0, 1), (1, 2)])])], title="<"
    )
    assert "a name that is fa…" in words(svg)
    assert "<b>&" in words(svg)
    assert len(re.findall("rotate", svg)) == 3


def test_a_sweep_shows_curves_and_a_panel_for_every_varied_field():
    found = [
        member(f"lr={lr},loss={loss}", {"lr": lr, "loss": loss}, recall=0.1 + lr)
        for lr in (0.01, 0.001)
        for loss in ("clip", "sigmoid")
    ]
    failed = member("bad", {"lr": 1.0}, status="failed")
    svg = sweep_chart([*found, failed], title="s")
    shown = words(svg)
    assert shown.count("validation recall@1, %") == 3
    assert shown.index("0.001") < shown.index("0.01")
    assert {"clip", "sigmoid", "lr=0.01,loss=clip"} <= set(shown)
    assert "bad" not in shown
    assert svg.count("<circle") == 8


def test_without_a_validation_the_loss_is_shown_and_without_heads_nothing():
    assert "training loss" in words(
        sweep_chart([member("a", {"lr": 1.0}), member("b", {"lr": 2.0})], title="s")
    )
    assert "nothing to show" in words(sweep_chart([member("a", {}, status="failed")], title="s"))


def test_a_fits_chart_marks_the_kept_epoch(tmp_path):
    with FitLog(tmp_path) as log:
        for epoch in (1, 2):
            for step in (2 * epoch - 1, 2 * epoch):
                log.write("step", epoch=epoch, step=step, loss=5.0 / step, temperature=0.07)
            recall = {"text_to_image": 0.1 * epoch, "image_to_text": 0.2}
            log.write("epoch", epoch=epoch, loss=4.0 / epoch, temperature=0.07, **{"recall@1": recall})
        log.write("end", kept_epoch=1)
    write_curves(tmp_path, epoch_steps=2)
    svg = (tmp_path / "fit.svg").read_text()
    assert "validation recall@1, % (kept: epoch 1)" in words(svg)
    assert {"training loss", "temperature", "text to image", "image to text"} <= set(words(svg))
    assert svg.count("<circle") == 2

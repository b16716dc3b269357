from __future__ import annotations

import base64
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from embedstore.documents import Figure
from embedstore.errors import MissingExtraError
from embedstore.recipes.page.content import (
    Answer,
    Block,
    Card,
    Chapter,
    ClassRow,
    ClassTable,
    Fact,
    Grid,
    GridRow,
    Headline,
    Masked,
    Measure,
    Query,
    RateRow,
    Section,
)
from embedstore.recipes.page.plots import (
    Curve,
    Interval,
    confusion_plot,
    interval_plot,
    line_plot,
    scatter_plot,
)
from embedstore.recipes.page.render import render_page

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=y> $x^{ ž 猫"
VOID = {"meta", "link", "img", "br"}


class Reader(HTMLParser):
    """Collects what a page would load, and checks that every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.urls: list[str] = []
        self.handlers: list[str] = []
        self.alts: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.urls += [value for name, value in attrs if name in ("src", "href", "action")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.alts += [value for name, value in attrs if name == "alt"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data


def measure(group="text_to_image", metric="recall@1", value=0.5, low=0.4, high=0.6, chance=0.1) -> Measure:
    return Measure(group=group, metric=metric, figure=Figure(value=value, low=low, high=high), chance=chance)


def plots() -> list:
    rows = [
        Interval(under=EVIL, name="recall@1", measure=measure()),
        Interval(under=EVIL, name=EVIL, measure=measure()),
    ]
    lines = {EVIL: Curve(x=[1, 2], y=[3.0, 2.0], low=[2, 1], high=[4, 3]), "b": Curve(x=[1, 2], y=[1.0, 2.0])}
    points = np.array([[0.0, 0], [1, 0], [0, 1], [1, 1]])
    return [
        interval_plot(rows, title=EVIL),
        line_plot(lines, title=EVIL, x=EVIL, y=EVIL),
        line_plot(
            {"a": lines["b"], EVIL: Curve(x=[1, 2], y=[0, 1], chance=True)},
            title="t",
            x="k",
            y="%",
            at=[1, 2],
        ),
        confusion_plot(np.array([[3, 1], [0, 0]]), [EVIL, "b"], sizes=np.array([4, 0]), title=EVIL),
        scatter_plot(points, np.array([0, 1, 0, 1]), [EVIL, "b"], title=EVIL, note=EVIL, hollow=2),
    ]


def page(**changed) -> str:
    measures = [measure(), measure("image_to_text", "median_rank", 3, 2, 5, 20)]
    answers = (
        Answer(rank=1, text=EVIL, right=True, score=0.5, jpeg=b"\xff\xd8picture"),
        Answer(rank=17, text=EVIL, right=False, score=0.25),
    )
    share = Figure(value=0.25, low=0, high=1)
    rows = (
        ClassRow(name=EVIL, figure=share, size=EVIL, taken_for=EVIL, times="3 of 4"),
        ClassRow(name="b", figure=share, size="2", taken_for=None, times=""),
    )
    rates = [RateRow(what=EVIL, value="1 GB/s", spread=EVIL, share=0.5, limit=EVIL)]
    masks = [Masked(panels=((EVIL, b"\xff\xd8mask"),), words=EVIL, colours=(("#ff0000", EVIL),))]
    parts = [measure(f"{EVIL}/{EVIL}", EVIL), measure("a/b", EVIL, chance=0.2)]
    grid = Grid(
        direction=EVIL,
        metrics=(EVIL, "none"),
        rows=tuple(GridRow(name=EVIL, cells=(part, None)) for part in parts),
    )
    cards = [
        Card(picture=b"\x89PNG\r", alt=EVIL, lines=(EVIL,)),
        Card(picture=None, alt=EVIL, lines=()),
    ]
    settings = [Section(title=EVIL, facts=(Fact(name=EVIL, value=EVIL),))]
    blocks = (
        Block(kind="figures", title=EVIL, lead=EVIL, value=measures),
        Block(kind="plots", value=changed.pop("plots", [])),
        Block(kind="texts_asked", value=[Query(text=EVIL, answers=answers, rank=1)]),
        Block(kind="images_asked", value=[Query(text=EVIL, answers=answers, rank=2, jpeg=b"\xff\xd8asked")]),
        Block(kind="classes", value=ClassTable(metric=EVIL, rows=rows, taken=True)),
        Block(kind="grids", value=[grid]),
        Block(kind="rates", value=rates),
        Block(kind="masks", value=masks),
        Block(kind="cards", value=cards),
        Block(kind="facts", value=settings),
    )
    values = {
        "title": EVIL,
        "intro": EVIL,
        "headlines": [Headline(task=EVIL, measure=measures[0])],
        "known": 2,
        "not_better": [],
        "chapters": [Chapter(title=EVIL, lead=EVIL, notes=(EVIL,), blocks=blocks)],
        "sections": settings,
        "left_out": {EVIL: EVIL},
        "commands": [EVIL, "second"],
    }
    return render_page("bench.html.j2", **(values | changed))


@pytest.fixture(scope="module")
def read() -> Reader:
    return Reader(page(plots=plots()))


def test_strange_words_stay_words_everywhere(read) -> None:
    assert "script" not in read.tags
    assert read.handlers == []
    assert read.text.count("<script>alert(1)</script>") >= 24
    assert EVIL in read.alts


def test_the_page_loads_nothing_from_anywhere(read) -> None:
    inside = [url for url in read.urls if url.startswith("#")]
    assert inside == ["#part-1", "#settings"]
    assert all(url.startswith(("data:", "#")) for url in read.urls)
    assert "default-src 'none'" in page().partition("</head>")[0]


def test_pictures_and_plots_are_inside_and_have_words(read) -> None:
    kinds = [url.partition(";")[0] for url in read.urls]
    assert (kinds.count("data:image/jpeg"), kinds.count("data:image/png")) == (3, 1)
    drawn = [base64.b64decode(url.partition(",")[2]).decode() for url in read.urls if "svg" in url[:20]]
    assert len(drawn) == 5
    assert all(svg.startswith("<svg") and svg.rstrip().endswith("</svg>") for svg in drawn)
    assert not any("<script" in svg or "<dc:date" in svg for svg in drawn)
    assert len(read.alts) == 4 + len(drawn)
    assert all(read.alts)


def test_the_right_answer_and_its_rank_are_said_in_words_too(read) -> None:
    assert read.text.count("✓ right") == 2
    assert "17. 0.25" in read.text
    assert 'li value="17"' in page()
    assert "no thumbnail of" in read.text


def test_figures_stand_with_interval_and_chance(read) -> None:
    words = re.sub(r"\s+", " ", read.text)
    assert "50.0 % 95 % interval 40.0 – 60.0 % chance 10.0 %" in words
    assert "median rank32 – 520" in words
    assert "Better than chance with the whole of their 95 % interval: 2 of 2 figures." in words
    assert "(3 of 4)" in words
    assert "10.0 % – 20.0 %" in words


@pytest.mark.parametrize(
    ("given", "side"),
    [
        (measure(low=0.11), "better"),
        (measure(low=0.1), "unclear"),
        (measure(high=0.6, chance=0.7), "worse"),
        (measure(metric="median_rank", value=3, low=2, high=5, chance=20), "better"),
        (measure(metric="median_rank", value=3, low=2, high=20, chance=20), "unclear"),
        (measure(metric="median_rank", value=30, low=21, high=40, chance=20), "worse"),
        (measure(chance=None), None),
    ],
)
def test_a_figure_that_is_not_better_than_chance_says_so(given, side) -> None:
    assert given.against_chance == side
    shown = [Headline(task="t", measure=given)]
    bad = side in ("unclear", "worse")
    chapter = Chapter(title="t", lead="", blocks=(Block(kind="figures", value=[given]),))
    text = page(chapters=[chapter], headlines=shown, known=1, not_better=shown if bad else [])
    assert ("does not show that anything was learnt" in text) is bad
    assert ("1 of 1 figures do not show that anything was learnt" in text) is bad
    assert ("not told apart from chance" in text) == (side == "unclear")
    assert (": worse than chance" in text) == (side == "worse")


def test_a_hollow_dot_marks_what_chance_could_have_done() -> None:
    sure, unsure = (
        interval_plot([Interval(under="a", name="b", measure=measure(low=low))], title="t").svg
        for low in (0.2, 0.1)
    )
    assert "#b54708" in unsure
    assert "#b54708" not in sure


def test_the_same_values_give_the_same_drawing() -> None:
    assert plots() == plots()
    assert "50.0 %" in plots()[0].alt
    assert f"{EVIL} 75 % right" in plots()[3].alt


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_extra_names_the_install_line(package, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"{package}[\s\S]*pip install 'embedstore\[demo\]'"):
        page() if package == "jinja2" else plots()

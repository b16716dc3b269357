from __future__ import annotations

import base64
import re
import sys
from html.parser import HTMLParser

import pytest

from embedstore.documents import Figure
from embedstore.errors import MissingExtraError
from embedstore.recipes.page.content import Answer, ClassRow, Fact, Measure, Query, Section
from embedstore.recipes.page.plots import line_plot, recall_plot
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


def measure(
    direction="text_to_image", metric="recall@1", value=0.5, low=0.4, high=0.6, chance=0.1
) -> Measure:
    return Measure(
        direction=direction, metric=metric, figure=Figure(value=value, low=low, high=high), chance=chance
    )


def page(**changed) -> str:
    measures = [measure(), measure("image_to_text", "median_rank", 3, 2, 5, 20)]
    answers = (
        Answer(text=EVIL, right=True, score=0.5, jpeg=b"\xff\xd8picture"),
        Answer(text=EVIL, right=False, score=0.25),
    )
    values = {
        "title": EVIL,
        "intro": EVIL,
        "measured": EVIL,
        "headlines": measures[:1],
        "measures": measures,
        "plots": [
            recall_plot(measures, title=EVIL),
            line_plot({EVIL: ([1, 2], [3.0, 2.0]), "b": ([1, 2], [1.0, 2.0])}, title=EVIL, x=EVIL, y=EVIL),
        ],
        "text_queries": [Query(text=EVIL, answers=answers, rank=1)],
        "image_queries": [Query(text=EVIL, answers=answers, rank=2, jpeg=b"\xff\xd8asked")],
        "classes": [
            ClassRow(name=EVIL, figure=Figure(value=0.25, low=0, high=1), rows=4, taken_for=EVIL, times=3),
            ClassRow(name="b", figure=Figure(value=1, low=1, high=1), rows=2, taken_for=None, times=0),
        ],
        "settings": [Section(title=EVIL, facts=(Fact(name=EVIL, value=EVIL),))],
        "commands": [EVIL, "second"],
    }
    return render_page("demo.html.j2", **(values | changed))


@pytest.fixture(scope="module")
def read() -> Reader:
    return Reader(page())


def test_strange_words_stay_words_everywhere(read) -> None:
    assert "script" not in read.tags
    assert read.handlers == []
    assert read.text.count("<script>alert(1)</script>") >= 12
    assert EVIL in read.alts


def test_the_page_loads_nothing_from_anywhere(read) -> None:
    assert read.urls
    assert all(url.startswith("data:") for url in read.urls)
    assert "default-src 'none'" in page(plots=[]).partition("</head>")[0]


def test_pictures_and_plots_are_inside_and_have_words(read) -> None:
    kinds = [url.partition(";")[0] for url in read.urls]
    assert kinds.count("data:image/jpeg") == 2
    plots = [base64.b64decode(url.partition(",")[2]).decode() for url in read.urls if "svg" in url[:20]]
    assert len(plots) == 2
    assert all(svg.startswith("<svg") and svg.rstrip().endswith("</svg>") for svg in plots)
    assert not any("<script" in svg or "<dc:date" in svg for svg in plots)
    assert len(read.alts) == kinds.count("data:image/jpeg") + 2
    assert all(read.alts)


def test_the_right_answer_is_said_in_words_too(read) -> None:
    assert read.text.count("✓ right") == 2
    assert "no thumbnail of" in read.text


def test_figures_stand_with_interval_and_chance(read) -> None:
    words = re.sub(r"\s+", " ", read.text)
    assert "50.0 % 95 % interval 40.0 – 60.0 % chance 10.0 %" in words
    assert "median rank32 – 520" in words
    assert "(3 of 4)" in words


@pytest.mark.parametrize(
    ("given", "beats"),
    [
        (measure(low=0.11), True),
        (measure(low=0.1), False),
        (measure(metric="median_rank", value=3, low=2, high=5, chance=20), True),
        (measure(metric="median_rank", value=3, low=2, high=20, chance=20), False),
        (measure(chance=None), None),
    ],
)
def test_a_figure_whose_interval_holds_chance_says_so(given, beats) -> None:
    assert given.beats_chance is beats
    text = page(measures=[given], headlines=[given], plots=[])
    assert ("does not show that anything was learnt" in text) == (beats is False)
    assert ("not told apart from chance" in text) == (beats is False)


def test_the_same_values_give_the_same_drawing() -> None:
    first, second = (recall_plot([measure()], title="t") for _ in range(2))
    assert first == second
    assert "50.0 %" in first.alt


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_extra_names_the_install_line(package, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"{package}[\s\S]*pip install 'embedstore\[demo\]'"):
        page(plots=[]) if package == "jinja2" else recall_plot([measure()], title="t")

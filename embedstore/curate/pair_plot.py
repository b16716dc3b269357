"""The matrix of encoder pairs as a picture: one panel a measure, SVG text without any library."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from embedstore.curate.pairs import value_of

if TYPE_CHECKING:
    from embedstore.documents import PairFigures, PairMeasure, PairsReport

_TITLES: dict[PairMeasure, str] = {
    "linear": "linear CKA",
    "linear-biased": "linear CKA, biased",
    "rbf": "RBF CKA",
    "knn": "mutual k-NN",
}
_CELL_W, _CELL_H, _LETTER, _GAP, _TOP, _LONGEST, _TITLE = 66, 38, 6.9, 28, 74, 28, 120
# From paper white to the blue of the other charts: lightness falls evenly, so it also reads in grey.
_LIGHT, _DARK = (240, 246, 252), (8, 64, 122)
# Where white and dark figures are equally easy to read.
_WHITE_ON = 0.65


def pairs_svg(report: PairsReport) -> str:
    """Image features down, text features across, best first; the first pair of the order is framed.

    Colours go from 0 to the largest value of their own panel.
    """
    images = list(dict.fromkeys(pair.image for pair in report.pairs))
    texts = list(dict.fromkeys(pair.text for pair in report.pairs))
    left = 24 + min(_LONGEST, max(map(len, images))) * _LETTER
    lean = max(map(len, texts)) * _LETTER > _CELL_W - 4
    below = 22 + (0.5 * min(_LONGEST, max(map(len, texts))) * _LETTER if lean else 0)
    extra = 0.87 * max(0, min(_LONGEST, len(texts[-1])) * _LETTER - _CELL_W / 2) if lean else 0
    across = max(len(texts) * _CELL_W, _TITLE)
    shown: list[PairMeasure] = list(dict.fromkeys([report.by, "linear", "rbf", "knn"]))
    width = max(left + len(shown) * (across + _GAP) + extra, 560)
    height = _TOP + len(images) * _CELL_H + below + 14
    body = [
        _text(16, 24, "Which encoders see alike", anchor="start", look='font-size="15" font-weight="600"'),
        _text(16, 42, _caption(report), anchor="start", look='fill="#5f6773" font-size="11"'),
    ]
    for row, name in enumerate(images):
        body.append(_text(left - 8, _TOP + (row + 0.5) * _CELL_H + 4, _short(name), anchor="end"))
    for number, measure in enumerate(shown):
        at = left + number * (across + _GAP)
        body.append(_text(at, _TOP - 8, _TITLES[measure], anchor="start", look='font-weight="600"'))
        body += _panel(report, measure, images, texts, at)
        for column, name in enumerate(texts):
            x, y = at + (column + 0.5) * _CELL_W, _TOP + len(images) * _CELL_H + 16
            body.append(_text(x, y, _short(name), anchor="start" if lean else "middle", lean=lean))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="system-ui, DejaVu Sans, sans-serif" '
        f'font-size="12" fill="#1b1f24" role="img"><title>Which encoders see alike</title>'
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>' + "".join(body) + "</svg>\n"
    )


def _panel(
    report: PairsReport, measure: PairMeasure, images: list[str], texts: list[str], left: float
) -> list[str]:
    values = [value_of(pair, measure) for pair in report.pairs]
    most = max(*values, 1e-9)
    places = [
        (left + texts.index(pair.text) * _CELL_W, _TOP + images.index(pair.image) * _CELL_H)
        for pair in report.pairs
    ]
    cells = [
        _cell(pair, value, value / most, place)
        for pair, value, place in zip(report.pairs, values, places, strict=True)
    ]
    x, y = places[0]
    frame = (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{_CELL_W}" height="{_CELL_H}" fill="none" '
        'stroke="#b54708" stroke-width="3"/>'
    )
    return [*cells, frame]


def _cell(pair: PairFigures, value: float, share: float, place: tuple[float, float]) -> str:
    """One square with its figure; `share` of the darkest."""
    share = min(1.0, max(0.0, share))
    colour = "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(_LIGHT, _DARK, strict=True))
    ink = "#ffffff" if share > _WHITE_ON else "#1b1f24"
    x, y = place
    words = f"{pair.image} and {pair.text}: {value:.3f}"
    return (
        f'<g><title>{escape(words)}</title><rect x="{x:.1f}" y="{y:.1f}" width="{_CELL_W}" '
        f'height="{_CELL_H}" fill="{colour}" stroke="#ffffff"/>'
        + _text(x + _CELL_W / 2, y + _CELL_H / 2 + 4, f"{value:.3f}", look=f'fill="{ink}"')
        + "</g>"
    )


def _caption(report: PairsReport) -> str:
    first = report.pairs[0]
    sure = f"not told apart from {len(report.level)} other" if report.level else "ahead of all others"
    alone = "the only pair" if len(report.pairs) == 1 else sure
    return f"{report.images} pictures; framed: {first.image} + {first.text}, {alone}"


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"


def _text(
    x: float, y: float, words: str, *, anchor: str = "middle", lean: bool = False, look: str = ""
) -> str:
    turn = f' transform="rotate(30 {x:.1f} {y:.1f})"' if lean else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turn} {look}>{escape(words)}</text>'

"""A template and its values to one self-contained HTML text: no script, no network, everything escaped."""

from __future__ import annotations

import base64
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from embedstore.recipes.page.extra import needs_extra

if TYPE_CHECKING:
    from embedstore.recipes.page.content import Measure


def render_page(template: str, **values: Any) -> str:
    """Fill `templates/<template>`; `MissingExtraError` without the extra `demo`.

    Autoescape is on for every value and there is no filter that turns it off: captions, ids and labels come
    from strangers. Pictures and plots become `data:` URLs inside `<img>`, where no script runs.
    """
    with needs_extra():
        import jinja2

    folder = files("embedstore.recipes.page") / "templates"
    loader = jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8"))
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "picture_url": lambda data: _url(_kind(data), data),
        "svg_url": lambda text: _url("image/svg+xml", text.encode()),
        "percent": percent,
        "value": value_text,
        "interval": interval_text,
        "chance": chance_text,
        "words": lambda name: name.replace("_", " ").replace("/", ", "),
    }
    return environment.get_template(template).render(**values) + "\n"


def percent(share: float) -> str:
    """A fraction of 1 for people."""
    return f"{100 * share:.1f} %"


def number(measure: Measure, value: float) -> str:
    """A value in the unit of its metric."""
    return percent(value) if measure.is_share else plain(value)


def plain(value: float) -> str:
    """A number that is no share, to three digits or to the whole."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def value_text(measure: Measure) -> str:
    """The figure."""
    return number(measure, measure.figure.value)


def interval_text(measure: Measure) -> str:
    """Its 95 % interval."""
    if not measure.is_share:
        return f"{plain(measure.figure.low)} – {plain(measure.figure.high)}"
    return f"{100 * measure.figure.low:.1f} – {percent(measure.figure.high)}"


def chance_text(measure: Measure) -> str:
    """What random scores give."""
    return "" if measure.chance is None else number(measure, measure.chance)


def _kind(picture: bytes) -> str:
    return "image/png" if picture.startswith(b"\x89PNG") else "image/jpeg"


def _url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"

"""A subset as one HTML page: its card, and a contact sheet of rows with the reason for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.curate.overview import describe_subset
from embedstore.recipes.page.content import Fact, Section
from embedstore.recipes.page.render import render_page
from embedstore.recipes.search import captions_of

if TYPE_CHECKING:
    import pyarrow as pa

    from embedstore.curate.overview import Overview
    from embedstore.documents import SubsetCard
    from embedstore.shapes import IntArray
    from embedstore.store import Store, Subset

SHOWN, TWINS, VALUES = 96, 24, 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row as the sheet shows it. `jpeg`: of the image, or of a text's image; `why`: what is known of it."""

    id: str
    texts: tuple[str, ...]
    jpeg: bytes | None
    why: tuple[Fact, ...]


def subset_page(store: Store, name: str, *, shown: int = SHOWN, language: str = "en") -> str:
    """The page as one HTML text, self-contained; `MissingExtraError` without the extra `demo`.

    `shown` rows at most: evenly spaced among those ordered by concept, then by rank, score and row, so that
    every part of the subset is seen, the best and the worst. Dropped rows stand beside their twins.
    """
    found = describe_subset(store, name)
    subset = found.subset
    rows = _spread(subset.read(), shown)
    dropped = _spread(subset.read_dropped(), TWINS)
    twins = _twins(store, subset, dropped)
    return render_page(
        "subset.html.j2",
        title=f"Subset: {name}",
        name=name,
        count=f"{len(subset):,} {subset.table}",
        of=f"{len(rows)} of {len(subset):,}",
        dropped_of=f"{len(dropped)} of {subset.dropped_count:,}",
        sections=[*map(_card, subset.cards), *_figures(found)],
        rows=_rows(store, subset, rows, language),
        pairs=list(zip(_rows(store, subset, dropped, language), twins, strict=True)),
    )


def _spread(table: pa.Table, most: int) -> pa.Table:
    """Some of the rows, evenly spaced in the order of the page."""
    score = table["score"].fill_null(-np.inf).to_numpy()
    rank = table["rank"].fill_null(0).to_numpy()
    concept = table["concept"].fill_null("").combine_chunks().dictionary_encode()
    names = np.argsort(np.argsort(np.array(concept.dictionary.to_pylist(), dtype=object)))
    group = names[concept.indices.to_numpy()] if len(table) else np.empty(0, np.int64)
    order = np.lexsort((table["row"].to_numpy(), -score, rank, group))
    places = np.unique(np.linspace(0, len(order) - 1, min(most, len(order))).round().astype(np.int64))
    return table.take(order[places])


def _twins(store: Store, subset: Subset, dropped: pa.Table) -> list[Row | None]:
    """The row that stands for each of the dropped ones, none where there is none."""
    ids = dropped["twin"].to_pylist()
    known = [twin for twin in ids if twin is not None]
    rows = store.rows_of(known, subset.table)
    shown = iter(_pictured(store, subset, rows, "en"))
    found: list[Row | None] = []
    for twin in ids:
        if twin is None:
            found.append(None)
            continue
        texts, jpeg = next(shown)
        found.append(Row(id=twin, texts=texts, jpeg=jpeg, why=()))
    return found


def _rows(store: Store, subset: Subset, table: pa.Table, language: str) -> list[Row]:
    seen = _pictured(store, subset, table["row"].to_numpy(), language)
    return [
        Row(id=line["id"], texts=texts, jpeg=jpeg, why=tuple(_why(line)))
        for line, (texts, jpeg) in zip(table.to_pylist(), seen, strict=True)
    ]


def _why(line: dict[str, Any]) -> list[Fact]:
    found = []
    for name in ("concept", "rank", "score", "reason", "parent"):
        value = line[name]
        if value is not None:
            found.append(Fact(name=name, value=f"{value:.4g}" if name == "score" else str(value)))
    return found


def _pictured(
    store: Store, subset: Subset, rows: IntArray, language: str
) -> list[tuple[tuple[str, ...], bytes | None]]:
    """Captions (of a text the text itself) and the small picture of some rows of the subset's table."""
    if subset.table == "images":
        images, texts = rows, captions_of(store, rows, language)
    else:
        lines = store.texts(["image", "text"]).take(rows)
        images = lines["image"].fill_null(-1).to_numpy()
        texts = [(text,) for text in lines["text"].to_pylist()]
    some = np.unique(images[images >= 0])
    small = dict(zip(some.tolist(), store.thumbnails(some), strict=True))
    return [(said, small.get(int(image))) for said, image in zip(texts, images, strict=True)]


def _card(card: SubsetCard) -> Section:
    """How it came to be."""
    facts = {
        "verb": card.verb,
        "kept": f"{card.kept:,} {card.table}",
        "dropped": f"{card.dropped:,}",
        **{
            name: ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            for name, value in card.settings.items()
        },
        **{f"count, {name}": f"{value:,}" for name, value in card.counts.items()},
        **{f"parent {k + 1}": f"{p.kind} {p.name or ''} {p.sha256[:16]}" for k, p in enumerate(card.parents)},
        "store": card.store_fingerprint[:16],
    }
    return _section("Card", facts)


def _figures(found: Overview) -> list[Section]:
    sections = []
    if found.scores:
        names = ("least", "5 %", "25 %", "median", "75 %", "95 %", "most")
        scores = zip(names, found.scores, strict=True)
        sections.append(_section("Scores", {name: f"{value:.4g}" for name, value in scores}))
    for title, values in (
        ("Concepts", found.concepts),
        ("Reasons", found.reasons),
        ("Came from", found.parents),
        ("Left out because", found.dropped_reasons),
    ):
        if values:
            facts = {name: f"{count:,}" for name, count in list(values.items())[:VALUES]}
            more = {"and others": f"{len(values) - VALUES:,} more"} if len(values) > VALUES else {}
            sections.append(_section(title, facts | more))
    return sections


def _section(title: str, facts: dict[str, str]) -> Section:
    return Section(
        title=title, facts=tuple(Fact(name=n.replace("_", " "), value=v) for n, v in facts.items())
    )

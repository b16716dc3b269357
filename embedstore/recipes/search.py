"""Words or a picture to the nearest rows of a store, exactly, by a fitted head."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from embedstore.errors import UnreadableImage, UsageError
from embedstore.index.topk import TopK
from embedstore.model import AlignedModel, feature_of_head, load, stored_vectors
from embedstore.sources.reading.pictures import open_picture, thumbnail
from embedstore.store import Store, open_store
from embedstore.store.choosing import choose_rows
from embedstore.store.selection import equal, readable, split_rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

    from embedstore.documents import Table
    from embedstore.shapes import Float32Array, FloatArray, IntArray
    from embedstore.store import Feature
    from embedstore.store.choosing import ChosenRows

Query: TypeAlias = "str | Path"

BLOCK = 8192
CAPTIONS = 3
QUERY_SIDE = 256
PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One answer. texts: captions of an image, or the text itself; `image`: the id of a text's image.

    `jpeg`: a small picture of the image (of a text: of its image), none where the store keeps none.
    """

    rank: int
    score: float
    row: int
    id: str
    texts: tuple[str, ...]
    image: str | None
    jpeg: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """What was asked and found. `feature` was searched; `applied`: it held the embeddings already.

    `searched` rows of the table were compared, `left_out` could not be read when they were encoded.
    """

    query: str
    kind: Literal["words", "picture"]
    table: Table
    feature: str
    applied: bool
    searched: int
    left_out: int
    answers: tuple[Found, ...]
    jpeg: bytes | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON value, without the pictures."""
        fields = {name: value for name, value in asdict(self).items() if name != "jpeg"}
        answers = [{k: v for k, v in answer.items() if k != "jpeg"} for answer in fields["answers"]]
        return fields | {"answers": answers}


def query_of(text: str, *, words: bool = False) -> Query:
    """What a user typed: the picture of that name where there is such a file, else words.

    `UsageError` for nothing, and for the name of a picture that is not there; `words`: always words.
    """
    if not text.strip():
        raise UsageError("the query is empty", todo="give words, or the file of a picture")
    path = Path(text)
    if words:
        return text
    try:
        if path.is_file():
            return path
    except (OSError, ValueError):  # too long for a name, or with a NUL byte: words
        return text
    if path.suffix.lower() in PICTURES and not any(letter.isspace() for letter in text):
        raise UsageError("there is no such picture", found=text, todo="to search for the words: --words")
    return text


def search_store(
    store: Store | str | PathLike[str],
    head: AlignedModel | str | PathLike[str],
    query: Query,
    *,
    table: str = "images",
    top: int = 10,
    feature: str | None = None,
    split: str | None = None,
    rows: str | None = None,
    language: str = "en",
    image_encoder: str | None = None,
    text_encoder: str | None = None,
    device: str = "auto",
) -> SearchResult:
    """The `top` rows of a table with the highest cosine to words (a str) or a picture (a Path).

    The head's joint embeddings are searched where they were applied to the store (or are `feature`); else
    the cached tokens go through the head, block by block. Exact; equal scores go to the lower row; all rows
    where there are fewer than `top`. Texts of role `negative` are no answers. `split` narrows to a split's
    images and their texts, `rows` to a subset or a file of ids; of an image's captions those in `language`
    are shown first. Only the encoder of the query is loaded. `UsageError` for what cannot be searched,
    `HeadError` for a feature of another head or encoder, `EncoderError` where the encoder is not found.
    """
    if table not in ("images", "texts"):
        raise UsageError("unknown table", where="--table", found=table, allowed="images, texts")
    if top < 1:
        raise UsageError("at least one answer", where="--top", found=top)
    if isinstance(query, str) and not query.strip():
        raise UsageError("the query is empty", todo="give words, or the file of a picture")
    opened = store if isinstance(store, Store) else open_store(store)
    kind: Table = "texts" if table == "texts" else "images"
    model = head
    if not isinstance(model, AlignedModel):
        model = load(
            model,
            encoders="text" if isinstance(query, str) else "image",
            image_encoder=image_encoder,
            text_encoder=text_encoder,
            device=device,
        )
    source = feature_of_head(opened, model.head, kind, feature)
    chosen = None if rows is None else choose_rows(opened, rows)
    meant, left_out = _rows(opened, source, split, chosen)
    vector, jpeg = _asked(model, query)
    best = TopK(vector, min(top, len(meant)), device=str(model.device))
    for part, vectors in _blocks(model, source, meant):
        best.add(vectors, part)
    near = best.result()
    return SearchResult(
        query=query if isinstance(query, str) else query.name,
        kind="words" if isinstance(query, str) else "picture",
        table=kind,
        feature=source.name,
        applied=source.card.head is not None,
        searched=len(meant),
        left_out=left_out,
        answers=_answers(opened, kind, near.rows[0], near.scores[0], language),
        jpeg=jpeg,
    )


def _rows(
    store: Store, source: Feature, split: str | None, chosen: ChosenRows | None
) -> tuple[IntArray, int]:
    """The rows that are compared, and how many of those meant could not be read."""
    narrowed = split is not None or chosen is not None
    images = np.zeros(store.plan.images + 1, dtype=bool)
    images[split_rows(store, split)] = True
    if chosen is not None:
        images[np.setdiff1d(np.arange(store.plan.images), chosen.images(store))] = False
    meant = images[:-1]
    if source.table == "texts":
        table = store.texts(["image", "role"])
        # A text without an image takes the last place, which is in no split.
        owner = table["image"].fill_null(store.plan.images).to_numpy()
        own = None if chosen is None else chosen.texts(store)
        meant = ~equal(table["role"], "negative") if own is None else own
        meant = meant & (images[owner] | (not narrowed))
    good = readable(source)
    rows = np.flatnonzero(meant & good)
    if not rows.size:
        raise UsageError(
            f"no {source.table} to search",
            where=source.name,
            found=f"split {split or 'all'}, {'all rows' if chosen is None else f'rows {chosen.name}'}",
        )
    return rows, int((meant & ~good).sum())


def _asked(model: AlignedModel, query: Query) -> tuple[Float32Array, bytes | None]:
    """The query's unit vector `(1, e)`, and a small picture of a picture."""
    if isinstance(query, str):
        return model.encode_text(query), None
    try:
        return model.encode_image(query), thumbnail(open_picture(query), QUERY_SIDE)
    except UnreadableImage as bad:
        raise UsageError(
            "the query is no picture that can be read",
            where=query.name,
            found=bad.problem,
            todo="to search for the words: --words",
        ) from None


def _blocks(model: AlignedModel, source: Feature, rows: IntArray) -> Iterator[tuple[IntArray, FloatArray]]:
    """The joint embeddings of some rows at a time."""
    embed = model.head.embed_images if source.table == "images" else model.head.embed_texts
    for first in range(0, len(rows), BLOCK):
        part = rows[first : first + BLOCK]
        yield part, stored_vectors(source, part) if source.card.head is not None else embed(source, part)


def _answers(
    store: Store, table: Table, rows: IntArray, scores: FloatArray, language: str
) -> tuple[Found, ...]:
    ids = store.images(["id"])["id"]
    if table == "images":
        texts, images = captions_of(store, rows, language), rows
        own = [ids[int(row)].as_py() for row in rows]
        named: list[str | None] = [None] * len(rows)
    else:
        lines = store.texts(["id", "image", "text"]).take(rows).to_pylist()
        texts, own = [(line["text"],) for line in lines], [line["id"] for line in lines]
        images = np.array([-1 if line["image"] is None else line["image"] for line in lines], np.int64)
        named = [None if row < 0 else ids[int(row)].as_py() for row in images]
    some = np.unique(images[images >= 0])
    small = dict(zip(some.tolist(), store.thumbnails(some), strict=True))
    return tuple(
        Found(
            rank=place + 1,
            score=float(scores[place]),
            row=int(rows[place]),
            id=own[place],
            texts=texts[place],
            image=named[place],
            jpeg=small.get(int(images[place])),
        )
        for place in range(len(rows))
    )


def captions_of(store: Store, images: IntArray, language: str) -> list[tuple[str, ...]]:
    """A few texts of each image: captions before long ones, those in the language first, no negatives."""
    table = store.texts(["image", "text", "language", "role"])
    places = np.flatnonzero(np.isin(table["image"].fill_null(-1).to_numpy(), images))
    own: dict[int, list[dict[str, Any]]] = {int(row): [] for row in images}
    for line in table.take(places).to_pylist():
        if line["role"] != "negative":
            own[line["image"]].append(line)
    for lines in own.values():
        lines.sort(key=lambda line: (line["language"] != language, line["role"] != "caption"))
    return [tuple(line["text"] for line in own[int(row)][:CAPTIONS]) for row in images]

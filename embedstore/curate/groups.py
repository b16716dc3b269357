"""What a cap may be counted by: the value that each row of a table has."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from typing import Any

    from embedstore.documents import Table
    from embedstore.shapes import IntArray
    from embedstore.store import Store

GROUPS = ("domain", "label", "split", "store", "language", "role")


def group_codes(store: Store, table: Table, by: str) -> IntArray:
    """The group `(n,)` int64, from 0, of every row of a table.

    domain: the host of the picture's URL, or the first folder of its path; label and split: the image's;
    store: which part of `A+B`; language and role: the text's, of images none. Rows without a value are one
    group; a text without an image is without a domain, label, split.
    """
    if by == "store":
        sizes = [p.plan.images if table == "images" else p.plan.texts for p in store.parts]
        return np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)
    if by in ("language", "role"):
        if table == "images":
            return np.zeros(store.plan.images, np.int64)
        return _codes(store.texts([by])[by])
    column = store.images(["picture" if by == "domain" else by])
    of_images = _domains(column["picture"]) if by == "domain" else _codes(column[by])
    if table == "images":
        return of_images
    # A text without an image takes the last place.
    owners = store.texts(["image"])["image"].fill_null(store.plan.images).to_numpy()
    found: IntArray = np.append(of_images, int(of_images.max(initial=-1)) + 1)[owners]
    return found


def _codes(column: pa.ChunkedArray[Any]) -> IntArray:
    coded = pc.dictionary_encode(column, null_encoding="encode")
    whole = coded.combine_chunks() if isinstance(coded, pa.ChunkedArray) else coded
    if isinstance(whole, pa.ChunkedArray):
        whole = pa.concat_arrays(whole.chunks)
    found: IntArray = whole.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def _domains(pictures: pa.ChunkedArray[Any]) -> IntArray:
    known: dict[str | None, int] = {}
    return np.array(
        [known.setdefault(_domain(picture), len(known)) for picture in pictures.to_pylist()], np.int64
    )


def _domain(picture: str | None) -> str | None:
    if picture is None:
        return None
    if "://" in picture:
        try:
            return urlsplit(picture).hostname
        except ValueError:
            return None
    folder, slash, _ = picture.partition("/")
    return folder if slash else ""

"""The verb `list`: a subset as a file for other tools."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from embedstore.curate.operands import opened
from embedstore.errors import UsageError
from embedstore.store import files

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike

    from embedstore.shapes import IntArray
    from embedstore.store import Store, Subset

FORMATS = ("parquet", "webdataset", "img2dataset")
_URL = r"^(?i:https?|s3|gs|ftp)://\S+$"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """What was written: how many lines, and how many rows of the subset have none, because `why`."""

    file: Path
    format: str
    lines: int
    left_out: int = 0
    why: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON value; of the file its name alone."""
        return {
            "file": self.file.name,
            "format": self.format,
            "lines": self.lines,
            "left_out": self.left_out,
            "why": self.why,
        }


def list_subset(
    store: Store | str | PathLike[str],
    subset: str,
    to: str | PathLike[str],
    *,
    format: str = "parquet",  # noqa: A002 - the option's name
    overwrite: bool = False,
) -> Listed:
    """Write a subset for other tools, whole or not at all.

    `parquet`: a line a row: the columns of the subset and of its table, and of images the first caption.
    `webdataset`: the keys of the images, one a line, in the order of the store: what a reader of tar shards
    filters by. `img2dataset`: Parquet with `url`, `caption` and `id`, for its `--input_format parquet`;
    the URL is the id or the name of the picture, whichever is one: a store keeps no other, and rows without
    one are left out and counted. `UsageError` where nothing could be written, and for a file that is there.
    """
    if format not in FORMATS:
        raise UsageError("unknown format", where="--format", found=format, allowed=", ".join(FORMATS))
    path, here = Path(to), opened(store)
    chosen = here.subset(subset)
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError("cannot write the file", where=path, todo="name a file in a folder that is there")
    if path.exists() and not overwrite:
        raise UsageError("the file is there already", where=path, todo="replace it with --overwrite")
    return _WRITERS[format](here, chosen, path)


def _parquet(store: Store, chosen: Subset, path: Path) -> Listed:
    known = chosen.read()
    rows = pa.array(chosen.rows)
    if chosen.table == "images":
        own = store.images(["picture", "nbytes", "label", "split"]).take(rows)
        known = _beside(known, own).append_column("caption", first_captions(store, chosen.rows))
    else:
        known = _beside(known, store.texts().drop_columns(["id"]).take(rows))
        owners = known["image"].fill_null(-1).to_numpy()
        known = known.append_column("image_id", _ids(store, owners))
    _write(known, path)
    return Listed(file=path, format="parquet", lines=len(known))


def _webdataset(store: Store, chosen: Subset, path: Path) -> Listed:
    images = _images(store, chosen)
    rows = images[images >= 0]
    if not len(rows):
        raise UsageError("no row of the subset has an image", where=chosen.name, found=f"{len(images)} texts")
    keys = store.images(["id"])["id"].take(pa.array(np.unique(rows)))
    broken = _places(pc.match_substring_regex(keys, r"[\r\n]"))
    if len(broken):
        raise UsageError(
            "an id with a line break cannot stand in a list", found=repr(keys[int(broken[0])].as_py())
        )
    files.replace(path, "".join(f"{key}\n" for key in keys.to_pylist()).encode())
    without = int((images < 0).sum())
    return Listed(
        file=path,
        format="webdataset",
        lines=len(keys),
        left_out=without,
        why="texts without an image" if without else None,
    )


def _img2dataset(store: Store, chosen: Subset, path: Path) -> Listed:
    images = _images(store, chosen)
    ids = chosen.read(["id"])["id"]
    names = store.images(["id", "picture"])
    place = pa.array(images, mask=images < 0)
    own = ids
    if chosen.table == "texts":  # the id of a text is the sample's, and a number
        own = pc.replace_substring_regex(ids, r"#\d+$", "")
    candidates = [names["id"].take(place), names["picture"].take(place), own]
    urls = pc.coalesce(*(_only_urls(column) for column in candidates))
    good = _places(pc.is_valid(urls))
    if not len(good):
        raise UsageError(
            "no row of the subset has a URL",
            where=chosen.name,
            found=f"ids such as {ids[0].as_py()!r}" if len(ids) else "no rows",
            allowed="ids or names of pictures that are URLs: a store keeps no other column for them",
            todo="encode the pool with the URL as its id (--column id=URL), or join --format parquet by id",
        )
    if chosen.table == "texts":
        captions = store.texts(["text"])["text"].take(pa.array(chosen.rows))
    else:
        captions = first_captions(store, chosen.rows)
    table = pa.table({"url": urls, "caption": captions, "id": ids}).take(pa.array(good))
    _write(table, path)
    left = len(chosen) - len(good)
    return Listed(
        file=path,
        format="img2dataset",
        lines=len(good),
        left_out=left,
        why="neither the id nor the picture's name is a URL" if left else None,
    )


def first_captions(store: Store, images: IntArray) -> pa.Array[Any]:
    """The first text of role `caption` of each image, else the first that is no negative; null for none."""
    table = store.texts(["image", "role"])
    owner = table["image"].fill_null(-1).to_numpy()
    role = table["role"].combine_chunks()
    places = np.full(store.plan.images, -1, np.int64)
    for good in (pc.not_equal(role, "negative"), pc.equal(role, "caption")):
        mine = np.flatnonzero(good.to_numpy(zero_copy_only=False) & (owner >= 0))[::-1]
        places[owner[mine]] = mine
    wanted = places[images]
    texts = store.texts(["text"])["text"].take(pa.array(wanted, mask=wanted < 0))
    return texts.combine_chunks()


def _images(store: Store, chosen: Subset) -> IntArray:
    """The image row of each row of the subset, -1 for a text without one."""
    if chosen.table == "images":
        return chosen.rows
    owners: IntArray = store.texts(["image"])["image"].fill_null(-1).to_numpy()[chosen.rows]
    return owners


def _ids(store: Store, images: IntArray) -> pa.ChunkedArray[Any]:
    return store.images(["id"])["id"].take(pa.array(images, mask=images < 0))


def _only_urls(column: pa.ChunkedArray[Any]) -> pa.ChunkedArray[Any]:
    return pc.if_else(pc.match_substring_regex(column, _URL), column, pa.scalar(None, pa.string()))


def _places(flags: pa.ChunkedArray[Any]) -> IntArray:
    found: IntArray = np.flatnonzero(pc.fill_null(flags, pa.scalar(value=False)).to_numpy())
    return found


def _beside(known: pa.Table, own: pa.Table) -> pa.Table:
    for name in own.column_names:
        known = known.append_column(name, own[name])
    return known


def _write(table: pa.Table, path: Path) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    files.replace(path, sink.getvalue())


_WRITERS: dict[str, Callable[[Store, Subset, Path], Listed]] = {
    "parquet": _parquet,
    "webdataset": _webdataset,
    "img2dataset": _img2dataset,
}

"""One function a format: lines of a selection and columns of embeddings to a file or folder."""

from __future__ import annotations

import json
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from embedstore.errors import UsageError
from embedstore.interchange.clip_layout import FOLDERS, METADATA
from embedstore.interchange.extras import need
from embedstore.interchange.outputs import new_file, new_folder, refuse_existing
from embedstore.interchange.vectors import Vectors, blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from embedstore.interchange.selection import Selection

Report: TypeAlias = "Callable[[int], None]"
_SAFE = {"float16": "F16", "float32": "F32"}
_URL = r"^[A-Za-z][A-Za-z0-9+.-]*://"


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What is written: words and numbers of the same lines; `report(lines done)`."""

    selection: Selection
    columns: list[Vectors]
    part_rows: int
    report: Report

    @property
    def cards(self) -> dict[str, str]:
        """Column to the card of its encoder with the array that was taken, as JSON text."""
        return {
            c.name: json.dumps({"array": c.array, "card": c.feature.card.model_dump(mode="json")})
            for c in self.columns
        }

    @property
    def schema(self) -> pa.Schema:
        """The words' columns, then one a feature; the cards are in the metadata."""
        words = [pa.field(f.name, f.type) for f in self.selection.columns.schema]
        numbers = [pa.field(c.name, c.arrow_type()) for c in self.columns]
        return pa.schema(words + numbers, metadata={f"embedstore.{k}": v for k, v in self.cards.items()})

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Lines in order, a bounded number of bytes at a time."""
        schema = self.schema
        for start, stop in blocks(self.columns):
            words = self.selection.columns.slice(start, stop - start).combine_chunks()
            arrays = [w.chunk(0) for w in words.columns] + [c.arrow(start, stop) for c in self.columns]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)
            self.report(stop)


def write_parquet(export: Export, path: Path) -> None:
    """One Parquet file; words are compressed, embeddings are stored plain: they would not get smaller."""
    words = export.selection.columns.column_names
    options = {"use_dictionary": words, "write_statistics": words, "write_page_checksum": True}
    compression = dict.fromkeys(words, "zstd")
    with (
        new_file(path) as name,
        pq.ParquetWriter(name, export.schema, compression=compression, **options) as out,
    ):
        for batch in export.batches():
            out.write_batch(batch)


def write_arrow(export: Export, path: Path) -> None:
    """One file in the Arrow file format (Feather version 2), not compressed: it can be memory-mapped."""
    with (
        new_file(path) as name,
        pa.OSFile(str(name), "wb") as sink,
        pa.ipc.new_file(sink, export.schema) as out,
    ):
        for batch in export.batches():
            out.write_batch(batch)


def write_datasets(export: Export, path: Path) -> None:
    """A folder that `datasets.load_from_disk` opens."""
    datasets = need("datasets")
    with new_folder(path) as name, tempfile.TemporaryDirectory(dir=path.parent, prefix=".lines.") as scratch:
        # The library copies an Arrow stream, and refuses to do so inside one folder.
        lines = Path(scratch, "lines.arrow")
        with pa.OSFile(str(lines), "wb") as sink, pa.ipc.new_stream(sink, export.schema) as out:
            for batch in export.batches():
                out.write_batch(batch)
        datasets.disable_progress_bars()
        datasets.Dataset.from_file(str(lines)).save_to_disk(str(name))


def write_lance(export: Export, path: Path) -> None:
    """A Lance data set."""
    lance = need("lance")
    with new_folder(path) as name:
        name.rmdir()
        reader = pa.RecordBatchReader.from_batches(export.schema, export.batches())
        lance.write_dataset(reader, str(name), schema=export.schema)


def write_npy(export: Export, path: Path) -> None:
    """One array, its ids in `PATH.ids.txt` and its card in `PATH.card.json` beside it."""
    column = _only(export, "npy")
    with _beside(export, path), new_file(path) as name, name.open("wb") as sink:
        _npy(column, 0, len(export.selection), sink, export.report)


def write_safetensors(export: Export, path: Path) -> None:
    """One tensor a feature, ids in `PATH.ids.txt` beside it; cards in the file's metadata."""
    shapes = [(len(export.selection), *_fixed(c, "safetensors")) for c in export.columns]
    header: dict[str, Any] = {"__metadata__": {f"embedstore.{k}": v for k, v in export.cards.items()}}
    at = 0
    for column, shape in zip(export.columns, shapes, strict=True):
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(column.dtype).itemsize
        header[column.name] = {"dtype": _SAFE[column.dtype], "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with _beside(export, path), new_file(path) as name, name.open("wb") as sink:
        sink.write(struct.pack("<Q", len(text)) + text)
        for column in export.columns:
            _values(column, 0, len(export.selection), sink, export.report)


def write_clip(export: Export, path: Path) -> None:
    """clip-retrieval's folder: `img_emb/`, `text_emb/`, `metadata/`, parts of `part_rows` lines."""
    by_modality: dict[str, Vectors] = {}
    for column in export.columns:
        modality: str = column.feature.card.modality
        if modality in by_modality or len(_fixed(column, "clip-retrieval")) != 1:
            raise UsageError(
                "the layout of clip-retrieval has one vector a picture and one a text",
                found=", ".join(f"{c.name} {c.shape}" for c in export.columns),
                todo="name one image and one text feature, and an --array of vectors: pooled, cls or mean",
            )
        by_modality[modality] = column
    words = _clip_words(export.selection.columns)
    count = len(words)
    parts = -(-count // export.part_rows)
    digits = len(str(parts - 1))
    with new_folder(path) as name:
        (name / METADATA).mkdir()
        (name / "embedstore.json").write_text(
            json.dumps(_parsed(export.cards), indent=2) + "\n", encoding="utf-8"
        )
        for part in range(parts):
            start, stop = part * export.part_rows, min(count, (part + 1) * export.part_rows)
            for modality, column in by_modality.items():
                folder = name / FOLDERS[modality]
                folder.mkdir(exist_ok=True)
                with (folder / f"{folder.name}_{part:0{digits}d}.npy").open("wb") as sink:
                    _npy(column, start, stop, sink, export.report)
            lines = words.slice(start, stop - start)
            pq.write_table(lines, name / METADATA / f"{METADATA}_{part:0{digits}d}.parquet")


def _clip_words(columns: pa.Table) -> pa.Table:
    """`image_path` is the picture's name or else the id; a picture that is a URL goes to `url`."""
    ids = columns["id"]
    picture = columns["picture"] if "picture" in columns.column_names else pa.nulls(len(ids), pa.string())
    remote = pc.fill_null(pc.match_substring_regex(picture, _URL), pa.scalar(value=False))
    local = pc.if_else(remote, pa.scalar(None, pa.string()), picture)
    words = {"image_path": pc.coalesce(local, ids), "id": ids}
    words |= {n: columns[n] for n in columns.column_names if n not in ("id", "picture")}
    if pc.any(remote).as_py():
        words["url"] = pc.if_else(remote, picture, pa.scalar(None, pa.string()))
    return pa.table(words)


def _parsed(cards: dict[str, str]) -> dict[str, Any]:
    return {name: json.loads(card) for name, card in cards.items()}


def _fixed(column: Vectors, kind: str) -> tuple[int, ...]:
    sizes = tuple(size for size in column.shape if size is not None)
    if column.ragged:
        raise UsageError(
            f"{kind} holds arrays of one shape, and texts differ in their number of tokens",
            where=column.name,
            todo="export to parquet, arrow, datasets or lance, or take --array pooled or mean",
        )
    return sizes


def _only(export: Export, kind: str) -> Vectors:
    if len(export.columns) != 1:
        raise UsageError(
            f"{kind} holds one array",
            found=", ".join(c.name for c in export.columns),
            todo="name one feature, or export to safetensors, parquet, arrow, datasets or lance",
        )
    return export.columns[0]


class _beside:  # noqa: N801 - read as a statement: with _beside(...)
    """Ids and cards beside a file: they get their names first, so that the file is never without its ids."""

    def __init__(self, export: Export, path: Path) -> None:
        self._export, self._path = export, path
        self._ids = path.with_name(f"{path.name}.ids.txt")
        self._card = path.with_name(f"{path.name}.card.json")

    def __enter__(self) -> None:
        ids = self._export.selection.columns["id"]
        broken = pc.fill_null(pc.match_substring_regex(ids, r"[\r\n]"), pa.scalar(value=False))
        if pc.any(broken).as_py():
            raise UsageError(
                "an id with a line break cannot stand in a list of lines", todo="export to parquet or arrow"
            )
        refuse_existing(self._path, self._ids, self._card)
        with new_file(self._ids) as name:
            name.write_text("".join(f"{i}\n" for i in ids.to_pylist()), encoding="utf-8", newline="\n")
        with new_file(self._card) as name:
            name.write_text(json.dumps(_parsed(self._export.cards), indent=2) + "\n", encoding="utf-8")

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self._ids.unlink(missing_ok=True)
            self._card.unlink(missing_ok=True)


def _npy(column: Vectors, start: int, stop: int, sink: BinaryIO, report: Report) -> None:
    """Lines `[start, stop)` as one NumPy file, C order, little-endian."""
    shape = (stop - start, *_fixed(column, "npy"))
    descr = np.lib.format.dtype_to_descr(np.dtype(column.dtype).newbyteorder("<"))
    np.lib.format.write_array_header_1_0(sink, {"descr": descr, "fortran_order": False, "shape": shape})
    _values(column, start, stop, sink, report)


def _values(column: Vectors, start: int, stop: int, sink: BinaryIO, report: Report) -> None:
    for low, high in blocks([column], start, stop):
        sink.write(column.read(low, high)[0].data)
        report(high)


WRITERS: dict[str, Callable[[Export, Path], None]] = {
    "clip-retrieval": write_clip,
    "parquet": write_parquet,
    "arrow": write_arrow,
    "npy": write_npy,
    "safetensors": write_safetensors,
    "datasets": write_datasets,
    "lance": write_lance,
}
ENDINGS = {
    ".npy": "npy",
    ".safetensors": "safetensors",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".lance": "lance",
}

"""The folder that clip-retrieval writes and reads: `img_emb/`, `text_emb/` and `metadata/`, aligned by row.

Part k is `img_emb/img_emb_k.npy`, `text_emb/text_emb_k.npy` and `metadata/metadata_k.parquet`; k may have
leading zeros. Row i of all three is one sample.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from embedstore.errors import SourceError
from embedstore.interchange.arrays import open_arrays
from embedstore.interchange.ids import FACTS, RowFacts, as_text, row_facts
from embedstore.interchange.values import Values, joined

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FOLDERS = {"image": "img_emb", "text": "text_emb"}
METADATA = "metadata"
IDS = ("id", "key", "image_path")


def is_clip_folder(path: Path) -> bool:
    """Whether a folder has embeddings and metadata under the names of this layout."""
    return (path / METADATA).is_dir() and any((path / name).is_dir() for name in FOLDERS.values())


def read_embeddings(path: Path, modality: str) -> tuple[Values, list[int]]:
    """The embeddings of all parts in order of their numbers, and the numbers; nothing is read yet."""
    folder = path / FOLDERS[modality]
    parts = _parts(folder, ".npy")
    if not parts:
        there = [f"{name}/" for name in FOLDERS.values() if (path / name).is_dir()]
        raise SourceError(
            f"no {modality} embeddings in this folder",
            where=path.name,
            found=", ".join(there) or "neither img_emb/ nor text_emb/",
            allowed=f"{folder.name}/{folder.name}_0.npy and so on",
        )
    opened = [open_arrays(p, "npy").values("array") for p in parts.values()]
    return joined(opened, [p.name for p in parts.values()]), list(parts)


def read_metadata(path: Path, numbers: list[int], rows: int, columns: Mapping[str, str]) -> RowFacts:
    """Ids and facts of all parts; the id is the column given as `id`, else the first of `IDS` there is."""
    parts = _parts(path / METADATA, ".parquet")
    if list(parts) != numbers:
        raise SourceError(
            "embeddings and metadata have different parts",
            where=path.name,
            found=f"metadata {list(parts)}",
            allowed=f"the numbers of the embeddings, {numbers}",
        )
    names = _column_names(parts)
    id_column = columns.get("id") or next((name for name in IDS if name in names), None)
    picture = columns.get("picture") or next((n for n in ("url", "image_path") if n in names), "")
    wanted = {"id": id_column, "picture": picture}
    wanted |= {name: columns.get(name, name) for name in FACTS if name != "picture"}
    for ours in {"id", *columns} - {"embedding"}:
        if wanted.get(ours) not in names:
            raise SourceError(
                f"no column {wanted.get(ours) or ours!r} in the metadata",
                where=path.name,
                found=", ".join(names),
                todo=f"name the column to take: --column {ours}=NAME",
            )
    read = {ours: theirs for ours, theirs in wanted.items() if theirs in names}
    found = {ours: _column(parts, str(theirs)) for ours, theirs in read.items()}
    count = len(found["id"])
    if count != rows:
        raise SourceError(
            "embeddings and metadata have different numbers of rows",
            where=path.name,
            found=f"{rows} and {count}",
        )
    return row_facts(found.pop("id"), found, where=f"{path.name}/{METADATA}")


def refuse_uneven(path: Path, modality: str, numbers: list[int]) -> None:
    """Every part must have as many embeddings as lines of metadata."""
    arrays, tables = _parts(path / FOLDERS[modality], ".npy"), _parts(path / METADATA, ".parquet")
    for number in numbers:
        rows = open_arrays(arrays[number], "npy").values("array").rows
        lines = pq.read_metadata(tables[number]).num_rows
        if rows != lines:
            raise SourceError(
                "a part has other numbers of embeddings and of metadata",
                where=f"{arrays[number].name} and {tables[number].name}",
                found=f"{rows} and {lines}",
            )


def _parts(folder: Path, ending: str) -> dict[int, Path]:
    """Number to file, ascending by number."""
    pattern = re.compile(rf"{re.escape(folder.name)}_(\d+){re.escape(ending)}")
    listed = folder.iterdir() if folder.is_dir() else ()
    found = sorted((int(m[1]), p) for p in listed if (m := pattern.fullmatch(p.name)))
    if len({number for number, _ in found}) < len(found):
        raise SourceError("two parts have one number", where=folder.name)
    return dict(found)


def _column_names(parts: Mapping[int, Path]) -> list[str]:
    """Every column of any part: parts are written one by one, and an empty column may be left out."""
    try:
        return list(dict.fromkeys(name for p in parts.values() for name in pq.read_schema(p).names))
    except (pa.ArrowException, OSError) as bad:
        raise SourceError("metadata that cannot be read", where=METADATA, found=str(bad)[:200]) from None


def _column(parts: Mapping[int, Path], name: str) -> Any:
    pieces = []
    for part in parts.values():
        with pq.ParquetFile(part) as file:
            if name in file.schema_arrow.names:
                pieces.append(as_text(file.read(columns=[name]).column(0), f"{part.name}, {name}"))
            else:
                pieces.append(pa.nulls(file.metadata.num_rows, pa.string()))
    return pa.concat_arrays(pieces)

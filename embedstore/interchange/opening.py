"""What `KIND:PATH` means for an import: the embeddings, and which sample each row is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import pyarrow.compute as pc

from embedstore.errors import SourceError, UnknownNameError, UsageError
from embedstore.interchange import clip_layout
from embedstore.interchange.arrays import ArrayFile, open_arrays
from embedstore.interchange.ids import FACTS, RowFacts, read_list, row_facts, table_facts, without_prefix
from embedstore.interchange.tables import open_tables

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from embedstore.interchange.values import Values
    from embedstore.shapes import IntArray

Modality: TypeAlias = Literal["image", "text"]
CLIP = "clip-retrieval"
ENDINGS = {
    ".npy": "npy",
    ".npz": "npz",
    ".pt": "pt",
    ".pth": "pt",
    ".safetensors": "safetensors",
    ".h5": "h5",
    ".hdf5": "h5",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
KINDS = (CLIP, *dict.fromkeys(ENDINGS.values()))
FULL = "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a file is to be understood."""

    modality: Modality
    ids: str | None = None
    """Id list: a file, or the name of an array in the file itself."""
    key: str | None = None
    """Array of a file that holds several."""
    lengths: str | None = None
    """Array with the real tokens of each text, or 'full' where no text is padded."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Our column (id, embedding, caption, label, split, language, picture) -> the file's."""
    id_prefix: str | None = None
    """Cut from the beginning of every id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """Embeddings with the samples that they are of. `rows[i]` is the file's row of `facts.ids[i]`.

    `samples`: the ids are those of samples with a picture (texts are then `ID#0`), not ids of texts.
    """

    kind: str
    name: str
    modality: Modality
    values: Values
    facts: RowFacts
    rows: IntArray
    samples: bool
    left_out: Mapping[str, int] = field(default_factory=dict)


def open_import(spec: str, reading: Reading) -> Opened:
    """Open `KIND:PATH`, or a path whose kind its name tells. Raises `UsageError` and `SourceError`."""
    unknown = [name for name in reading.columns if name not in ("id", "embedding", *FACTS)]
    if unknown:
        raise UnknownNameError(
            f"unknown column {unknown[0]!r}", allowed=", ".join(("id", "embedding", *FACTS))
        )
    kind, path = split_kind(spec, KINDS, ENDINGS)
    opened = _open_clip(path, reading) if kind == CLIP else _open_file(path, kind, reading)
    return replace(opened, facts=without_prefix(opened.facts, reading.id_prefix, where=opened.name))


def split_kind(spec: str, kinds: tuple[str, ...], endings: Mapping[str, str]) -> tuple[str, Path]:
    """Kind and path of `KIND:PATH`; a path alone must tell its kind by its ending or its folders."""
    kind, colon, rest = spec.partition(":")
    if colon and kind in kinds:
        return kind, Path(rest).expanduser()
    path = Path(spec).expanduser()
    if path.suffix.lower() in endings:
        return endings[path.suffix.lower()], path
    if CLIP in kinds and clip_layout.is_clip_folder(path):
        return CLIP, path
    raise UsageError(
        "cannot tell the format", found=spec, allowed=f"KIND:PATH, KIND one of {', '.join(kinds)}"
    )


def _open_clip(path: Path, reading: Reading) -> Opened:
    if not path.is_dir():
        raise SourceError("there is no such folder", found=path)
    if reading.ids is not None:
        raise UsageError(
            "the ids of a clip-retrieval folder stand in its metadata", todo="give --column id=NAME"
        )
    values, numbers = clip_layout.read_embeddings(path, reading.modality)
    facts = clip_layout.read_metadata(path, numbers, values.rows, reading.columns)
    clip_layout.refuse_uneven(path, reading.modality, numbers)
    return Opened(
        kind=CLIP,
        name=path.name,
        modality=reading.modality,
        values=_checked_tokens(values, reading, path.name),
        facts=facts,
        rows=np.arange(values.rows),
        samples=True,
    )


def _open_file(path: Path, kind: str, reading: Reading) -> Opened:
    if kind in ("arrow", "parquet"):
        files = open_tables(path, kind)
        values = files.values(files.embedding_column(reading.columns.get("embedding") or reading.key))
        values = _with_lengths(values, files.name, files.schema.names, files.numbers, reading)
        own = {k: v for k, v in reading.columns.items() if k != "embedding"}
        if reading.ids in files.schema.names:
            own["id"] = str(reading.ids)
        inside = reading.ids is None or "id" in own
        facts = table_facts(files, own) if inside else _listed(reading, None)
    else:
        file = open_arrays(path, kind)
        beside = frozenset(n for n in (reading.ids, reading.lengths) if n in file.keys)
        key = file.key(reading.key, not_these=beside)
        values = _with_lengths(file.values(key), file.name, file.keys, file.small, reading)
        facts = _listed(reading, file)
    if values.rows != len(facts):
        raise SourceError(
            "embeddings and ids have different numbers of rows",
            where=path.name,
            found=f"{values.rows} embeddings, {len(facts)} ids",
        )
    return Opened(
        kind=kind,
        name=path.name,
        modality=reading.modality,
        values=_checked_tokens(values, reading, path.name),
        facts=facts,
        rows=np.arange(values.rows),
        samples=reading.modality == "image",
    )


def _listed(reading: Reading, file: ArrayFile | None) -> RowFacts:
    """Ids from the array of the same file that `ids` names, else from the file that it names."""
    if reading.ids is None:
        raise UsageError(
            "rows are matched by id, and this file has no ids",
            todo="give --ids FILE (txt, csv, tsv, jsonl, parquet), or --ids NAME of an array in the file",
        )
    if file is not None and reading.ids in file.keys:
        return row_facts(file.small(reading.ids), {}, where=f"{file.name}, {reading.ids}")
    path = Path(reading.ids).expanduser()
    if not path.is_file():
        raise UsageError(
            "no such id list",
            where="--ids",
            found=reading.ids,
            allowed="a file" + (f", or one of {', '.join(file.keys)}" if file is not None else ""),
        )
    return read_list(path, reading.columns)


def _with_lengths(
    values: Values, where: str, keys: Sequence[str], small: Callable[[str], Any], reading: Reading
) -> Values:
    if reading.lengths in (None, FULL):
        return values
    if reading.lengths not in keys:
        raise UsageError("no such array", where="--lengths", found=reading.lengths, allowed=", ".join(keys))
    lengths: Any = np.asarray(small(str(reading.lengths)))
    if lengths.shape != values.shape[:1] or lengths.dtype.kind not in "iu":
        raise SourceError(
            "lengths must be one whole number a row",
            where=f"{where}, {reading.lengths}",
            found=f"{lengths.dtype} {lengths.shape}",
        )
    return replace(values, lengths=lengths.astype(np.int64))


def _checked_tokens(values: Values, reading: Reading, where: str) -> Values:
    """Texts differ in length, pictures do not; padding is never taken for a token silently."""
    if len(values.shape) == 2:
        if reading.lengths is not None:
            raise UsageError("lengths need tokens, (rows, tokens, width)", where=where, found=values.shape)
        return values
    if reading.modality == "text" and values.lengths is None and reading.lengths != FULL:
        raise UsageError(
            "which of the tokens of a text are padding?",
            where=where,
            found=f"{values.shape[1]} token places for every text",
            todo="give --lengths NAME, an array with the real tokens of each text, or --lengths full",
        )
    if reading.modality == "text" and values.lengths is None:
        return replace(values, lengths=np.full(values.rows, values.shape[1], np.int64))
    lengths = values.lengths
    least = 1 if reading.modality == "text" else values.shape[1]
    if lengths is not None and ((lengths < least) | (lengths > values.shape[1])).any():
        row = int(np.flatnonzero((lengths < least) | (lengths > values.shape[1]))[0])
        raise SourceError(
            "a row has a wrong number of tokens",
            where=f"{where}, row {row}",
            found=int(lengths[row]),
            allowed=f"{least} to {values.shape[1]}",
        )
    return values if reading.modality == "text" else replace(values, lengths=None)


def captioned(opened: Opened) -> Opened:
    """The texts of samples: rows that have a caption, under the ids `ID#0`; the others are counted."""
    if not opened.samples or opened.modality == "image":
        return opened
    if "caption" not in opened.facts.columns:
        raise SourceError("the file has no captions for its text embeddings", where=opened.name)
    mask = pc.is_valid(opened.facts.columns["caption"])
    kept = opened.facts.keep(mask)
    suffixed = RowFacts(ids=pc.binary_join_element_wise(kept.ids, "0", "#"), columns=kept.columns)
    rows = opened.rows[mask.to_numpy(zero_copy_only=False)]
    lost = len(opened.facts) - len(kept)
    return replace(
        opened, facts=suffixed, rows=rows, left_out={"rows without a caption": lost} if lost else {}
    )

"""Which columns of a Hugging Face data set are pictures, captions, labels and ids."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow.types as pt

from embedstore.errors import SourceError
from embedstore.sources.reading.rows import refuse_unknown_columns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OURS = ("image", "caption", "captions", "label", "split", "language", "id")
_CAPTIONS = ("captions", "caption", r"caption_?\d+", "sentences", "sentence", "texts", "text")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Their columns by what they mean. `names` are those of a class label, in the order of their numbers."""

    image: str | None
    captions: tuple[str, ...]
    label: str | None
    names: tuple[str, ...]
    split: str | None
    language: str | None
    id: str | None

    @property
    def read(self) -> tuple[str, ...]:
        """The columns beside the picture that are read, none twice."""
        others = (self.label, self.split, self.language, self.id)
        return tuple(dict.fromkeys([*self.captions, *(name for name in others if name is not None)]))


def features_of(schema: Any, beside: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the file says about its columns, else what stands beside it."""
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        found = None
    return found if isinstance(found, dict) else beside


def choose(schema: Any, features: Mapping[str, Any], columns: Mapping[str, str], where: str) -> Chosen:
    """Choose by `columns`, our names to theirs (several captions with `;`), then by kind and by name.

    Raises `SourceError` with the columns that there are, `UnknownNameError`.
    """
    refuse_unknown_columns(columns, OURS)
    names = list(schema.names)
    for theirs in (t.strip() for value in columns.values() for t in value.split(";")):
        if theirs and theirs not in names:
            raise SourceError(f"no column {theirs!r}", where=where, found=", ".join(names))
    image = _image(schema, features, columns, where)
    captions = _captions(names, columns)
    if image is None and not captions:
        raise SourceError(
            "no column of pictures or captions",
            where=where,
            found=", ".join(names) or "no columns",
            todo="name them: --column image=NAME or --column caption=NAME",
        )
    label = _label(names, features, columns)
    said = features.get(label) if label is not None else None
    classes = said.get("names") if isinstance(said, dict) and said.get("_type") == "ClassLabel" else None
    return Chosen(
        image=image,
        captions=captions,
        label=label,
        names=_class_names(classes, where),
        split=_plain("split", names, columns),
        language=_plain("language", names, columns),
        id=_plain("id", names, columns),
    )


def _plain(ours: str, names: Sequence[str], columns: Mapping[str, str]) -> str | None:
    theirs = columns.get(ours, ours)
    return theirs if theirs in names else None


def _of_type(features: Mapping[str, Any], kind: str, names: Sequence[str]) -> list[str]:
    return [n for n in names if isinstance(f := features.get(n), dict) and f.get("_type") == kind]


def _image(schema: Any, features: Mapping[str, Any], columns: Mapping[str, str], where: str) -> str | None:
    if "image" in columns:
        name = columns["image"] or None
    else:
        found = _of_type(features, "Image", schema.names)
        if not found and "image" in schema.names:
            found = ["image"]
        name = "image" if "image" in found else found[0] if found else None
        if name != "image" and len(found) > 1:
            raise SourceError(
                "several columns of pictures",
                where=where,
                found=", ".join(found),
                todo=f"choose one: --column image={found[0]}",
            )
    if name is None:
        return None
    kind = schema.field(name).type
    held = pt.is_binary(kind) or pt.is_large_binary(kind)
    if pt.is_struct(kind):
        fields = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
        bytes_ = fields.get("bytes")
        held = bytes_ is not None and (
            pt.is_binary(bytes_) or pt.is_large_binary(bytes_) or pt.is_null(bytes_)
        )
    if not held:
        raise SourceError(
            f"column {name!r} holds no pictures",
            where=where,
            found=kind,
            allowed="bytes, or the type Image",
            todo=None if "image" in columns else "--column image= reads the texts alone",
        )
    return str(name)


def _captions(names: Sequence[str], columns: Mapping[str, str]) -> tuple[str, ...]:
    named = [columns[ours] for ours in ("captions", "caption") if ours in columns]
    if named:
        return tuple(t.strip() for value in named for t in value.split(";") if t.strip())
    for pattern in _CAPTIONS:
        found = [name for name in names if re.fullmatch(pattern, name)]
        if found:
            return tuple(sorted(found, key=lambda name: (len(name), name)))
    return ()


def _label(names: Sequence[str], features: Mapping[str, Any], columns: Mapping[str, str]) -> str | None:
    if "label" in columns:
        return columns["label"] or None
    if "label" in names:
        return "label"
    found = _of_type(features, "ClassLabel", names)
    return found[0] if len(found) == 1 else None


def _class_names(classes: object, where: str) -> tuple[str, ...]:
    if classes is None:
        return ()
    if not isinstance(classes, list) or not all(isinstance(n, str) and n for n in classes):
        raise SourceError("class names that are no texts", where=where, found=str(classes)[:80])
    if len(set(classes)) < len(classes):
        raise SourceError("a class name stands twice", where=where, found=str(classes)[:200])
    return tuple(classes)

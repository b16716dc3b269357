"""The source `dci:FOLDER`: Densely Captioned Images (Urbanek et al., CVPR 2024), a json file a picture."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from embedstore.errors import SourceError, UsageError
from embedstore.sources.reading.files import at as file_at
from embedstore.sources.reading.json_stream import an_object, json_value, list_of, plain, text_of
from embedstore.sources.samples.listed import (
    Columns,
    ListedSource,
    NearPlaces,
    chosen_splits,
    names_in,
    place_of,
    refuse_other_splits,
)
from embedstore.sources.wording import split_options

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from embedstore.sources.reading.files import File
    from embedstore.sources.reading.rows import Rows

LONG = ("full", "extended")
CAPTIONS = ("short", "summaries")
NO_SUMMARY = "pictures without a summary"
_FOLDERS = ("annotations", "complete")


class DciSource(ListedSource):
    """Pictures with one long description each (role `long`) and short captions.

    `path` is the folder that holds `annotations` (or `complete`, the same with summaries and negatives),
    `photos` and `splits.json` (`{"train": [names of annotation files], "valid": ..., "test": ...}`); without
    that file there are no splits. `splits` takes only some of them. The sample's id is the picture's name.

    `long` says what the long description is, its parts on lines of their own: `full`, `short_caption`,
    `extra_caption` and then of every mask `label: caption` (of a mask of quality 1 its label, of quality 2
    nothing), over 1,000 words; or `extended`, `short_caption` and `extra_caption` alone.
    `captions` says what has role `caption`: `short`, the short caption; or `summaries`, those of the whole
    picture (sDCI), with the negatives of the first one behind it, role `negative`, the kind of change
    (`swaps`, `layout`, `basic`) as category. Parts of pictures and their captions are no samples.
    """

    def __init__(
        self,
        path: Path | File,
        *,
        image_root: Path | File | None = None,
        splits: str | None = None,
        long: str = "full",
        captions: str = "short",
    ) -> None:
        for name, value, known in (("long", long, LONG), ("captions", captions, CAPTIONS)):
            if value not in known:
                raise UsageError(f"bad value of option {name!r}", found=value, allowed=", ".join(known))
        path = file_at(path)
        files = _files(path, ("complete", "annotations") if captions == "summaries" else _FOLDERS)
        split_of = _splits(path.child("splits.json"))
        wanted = chosen_splits(splits)
        refuse_other_splits(wanted, split_of.values(), path.name)
        taken = [file for file in files if wanted is None or split_of.get(file.name) in wanted]
        rows, without = _read(taken, split_of, long, summaries=captions == "summaries")
        identity = {"kind": "dci", "long": long, "captions": captions}
        super().__init__(
            rows,
            NearPlaces(path, image_root, ("photos", "images")),
            where=path.name,
            language="en",
            identity=identity if splits is None else {**identity, "splits": splits},
            dropped={NO_SUMMARY: without},
        )

    @classmethod
    def from_spec(cls, rest: str, **options: Any) -> DciSource:
        """The source of `dci:FOLDER?splits=test&long=extended&captions=summaries`."""
        place, written = split_options(rest, {"splits": None, "long": LONG, "captions": CAPTIONS})
        return cls(place_of(place, "folder"), **{**options, **written})


def _files(path: File, folders: tuple[str, ...]) -> list[File]:
    for folder in folders:
        inside = path.child(folder)
        if found := [inside.child(name) for name in names_in(inside, ".json")]:
            return found
    raise SourceError(
        "no json files of Densely Captioned Images",
        found=path,
        allowed=f"a folder with {' or '.join(folders)}",
    )


def _splits(path: File) -> dict[str, str]:
    if not path.is_file():
        return {}
    split_of: dict[str, str] = {}
    whole = an_object(json_value(path), path.name)
    for split in whole:
        plain(split, "the name of a split", path.name)
        for name in list_of(whole, split, path.name):
            if not isinstance(name, str):
                raise SourceError("the name of an annotation is not text", where=path.name, found=name)
            file = name if name.endswith(".json") else f"{name}.json"
            if split_of.setdefault(file, split) != split:
                raise SourceError(
                    "a picture in two splits", where=path.name, found=f"{file}: {split_of[file]} and {split}"
                )
    return split_of


def _read(files: list[File], split_of: Mapping[str, str], long: str, *, summaries: bool) -> tuple[Rows, int]:
    columns, places = Columns("image", "split", "caption", "role", "category"), list[str]()
    seen: dict[str, str] = {}
    missing: Counter[str] = Counter()
    for file in files:
        item = an_object(json_value(file), file.name)
        name = text_of(item, "image", file.name)
        if name in seen:
            raise SourceError(
                "one picture is described twice", where=f"{seen[name]} and {file.name}", found=name
            )
        seen[name] = file.name
        texts = [(_long(item, file.name, masks=long == "full"), "long", None)]
        short = [(text_of(item, "short_caption", file.name), "caption", None)]
        found = list(_summaries(item, file.name)) if summaries else short
        missing[NO_SUMMARY] += not found
        for text, role, category in (*texts, *found):
            columns.add(image=name, split=split_of.get(file.name), caption=text, role=role, category=category)
            places.append(file.name)
    return columns.rows(places.__getitem__), missing[NO_SUMMARY]


def _long(item: Mapping[str, Any], at: str, *, masks: bool) -> str:
    texts = [text_of(item, "short_caption", at), text_of(item, "extra_caption", at)]
    if masks:
        described = an_object(item.get("mask_data"), f"{at}, mask_data")
        for key, mask in described.items():
            texts.append(_of_mask(an_object(mask, f"{at}, mask {key}"), f"{at}, mask {key}"))
    return "\n".join(text for one in texts if (text := one.strip()))


def _of_mask(mask: Mapping[str, Any], at: str) -> str:
    quality = mask.get("mask_quality", 0)
    if quality not in (0, 1, 2):
        raise SourceError("'mask_quality' is not 0, 1 or 2", where=at, found=ascii(quality)[:80])
    if quality == 2:
        return ""
    label = text_of(mask, "label", at).strip()
    return label if quality == 1 else f"{label}: {text_of(mask, 'caption', at).strip()}"


def _summaries(item: Mapping[str, Any], at: str) -> Iterator[tuple[str, str, str | None]]:
    """The summaries of the whole picture, the negatives of the first one behind it."""
    found = an_object(item.get("summaries") or {}, f"{at}, summaries").get("base", [])
    texts = _texts(found, f"{at}, summaries")
    changed = an_object(item.get("negatives") or {}, f"{at}, negatives").get("base", {})
    for number, text in enumerate(texts):
        yield text, "caption", None
        if number == 0:
            for category, negatives in an_object(changed, f"{at}, negatives").items():
                for negative in _texts(negatives, f"{at}, negatives"):
                    yield negative, "negative", plain(category, "negatives", at)


def _texts(value: object, at: str) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise SourceError("not a text, nor a list of texts", where=at, found=ascii(value)[:80])
    return [plain(text, "text", at) for text in texts]

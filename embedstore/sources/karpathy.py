"""The source `karpathy:PATH`: the splits of Karpathy and Fei-Fei, `dataset_coco.json` and its likes."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import TYPE_CHECKING, Any

from embedstore.errors import SourceError, UsageError
from embedstore.sources.reading.files import at as file_at
from embedstore.sources.reading.json_stream import an_object, json_parts, list_of, text_of
from embedstore.sources.samples.grouping import check_language
from embedstore.sources.samples.listed import (
    Columns,
    ListedSource,
    NearPlaces,
    chosen_splits,
    place_of,
    refuse_other_splits,
    refuse_twice,
)
from embedstore.sources.wording import split_options

if TYPE_CHECKING:
    from pathlib import Path

    from embedstore.sources.reading.files import File
    from embedstore.sources.reading.rows import Rows

RESTVAL = ("keep", "train", "drop")
NEAR = (
    "images",
    "Images",
    "Flicker8k_Dataset",
    "Flickr8k_Dataset",
    "Flickr_8k_Dataset",
    "flickr30k-images",
    "flickr30k_images",
)
"""Folders that the pictures of Flickr8k, Flickr30k and COCO are published in."""


class KarpathySource(ListedSource):
    """Images, captions and splits of `dataset_coco.json`, `dataset_flickr8k.json`, `dataset_flickr30k.json`.

    An entry of `images` needs `filename`, `split` and `sentences` with `raw` texts; `filepath` (COCO) is the
    folder of the picture. The sample's id is the `filename`; one that stands twice is refused. The splits are
    those of the file: train, val, test and, for COCO, `restval`: 30,504 images of val2014 that are neither in
    val nor in test and that most papers train on. `restval` says what becomes of them: `keep` (a split of
    its own), `train` (they join it) or `drop`. `splits` (`test` or `val,test`) takes only these.
    """

    def __init__(
        self,
        path: Path | File,
        *,
        image_root: Path | File | None = None,
        splits: str | None = None,
        restval: str = "keep",
        language: str = "en",
    ) -> None:
        if restval not in RESTVAL:
            raise UsageError("bad value of option 'restval'", found=restval, allowed=", ".join(RESTVAL))
        path, language = file_at(path), check_language(language)
        rows, dropped = _read(path, restval, chosen_splits(splits))
        refuse_twice(rows, "id", "one picture is listed twice")
        identity = {"kind": "karpathy", "restval": restval}
        super().__init__(
            rows,
            NearPlaces(path.parent, image_root, (*NEAR, "..", *(f"../{name}" for name in NEAR))),
            where=path.name,
            language=language,
            identity=identity if splits is None else {**identity, "splits": splits},
            dropped={"images of the split restval": dropped},
        )

    @classmethod
    def from_spec(cls, rest: str, **options: Any) -> KarpathySource:
        """The source of `karpathy:PATH?splits=val,test&restval=train`."""
        place, written = split_options(rest, {"splits": None, "restval": RESTVAL})
        return cls(place_of(place, "file"), **{**options, **written})


def _read(path: File, restval: str, wanted: frozenset[str] | None) -> tuple[Rows, int]:
    columns, numbers, found = Columns("id", "image", "split", "captions"), array("q"), Counter[str]()
    for at, value in json_parts(path):
        if at.key != "images" or at.index is None:
            continue
        item = an_object(value, at)
        split = text_of(item, "split", at)
        split = "train" if split == "restval" and restval == "train" else split
        found[split] += 1
        if (wanted is not None and split not in wanted) or (split == "restval" and restval == "drop"):
            continue
        name = text_of(item, "filename", at)
        folder = text_of(item, "filepath", at) if item.get("filepath") else ""
        sentences = [an_object(one, at) for one in list_of(item, "sentences", at)]
        columns.add(
            id=name,
            image=f"{folder}/{name}" if folder else name,
            split=split,
            captions=[text_of(one, "raw", at) for one in sentences],
        )
        numbers.append(at.index)
    if not found:
        raise SourceError(
            "no 'images'",
            where=path.name,
            allowed='a Karpathy split: {"images": [{"filename", "split", "sentences"}, ...]}',
        )
    refuse_other_splits(wanted, found, path.name)
    rows = columns.rows(lambda row: f"{path.name}, images[{numbers[row]}]")
    return rows, found["restval"] if restval == "drop" else 0

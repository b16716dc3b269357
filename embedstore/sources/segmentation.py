"""The source `segmentation:FOLDER`: pictures, masks of class ids beside them, and a list of the classes."""

from __future__ import annotations

import hashlib
import operator
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from embedstore.errors import SourceError, UnreadableImage, UsageError
from embedstore.sources.base import UNLABELLED, Sample
from embedstore.sources.class_list import read_class_list
from embedstore.sources.folder import EXTENSIONS, picture_in, pictures_below
from embedstore.sources.reading.files import LocalFile
from embedstore.sources.reading.files import at as file_at
from embedstore.sources.reading.lines import lines_of
from embedstore.sources.reading.pictures import (
    MAX_FILE_BYTES,
    stored_geometry,
    stored_numbers,
    turned_upright,
)
from embedstore.sources.samples.listed import named, place_of, stem
from embedstore.sources.wording import split_options

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from embedstore.shapes import AnyArray, ByteArray
    from embedstore.sources.reading.files import File

    _Named: TypeAlias = tuple[str, int | None]
    """A file's name, and its size where a listing tells it."""

IMAGES = ("images", "JPEGImages", "leftImg8bit")
MASKS = ("annotations", "masks", "SegmentationClass", "gtFine", "labels")
CLASSES = ("classes.txt", "classes.json", "objectInfo150.txt", "labels.txt")
MASK_ENDINGS = (".png", ".bmp", ".tif", ".tiff", ".gif")
NO_MASK = "pictures without a mask"
NO_PICTURE = "masks without a picture"
_SPLIT = re.compile(r"(train|val|test)\w*")
_OPTIONS = ("images", "masks", "classes", "lists", "ignore", "image_suffix", "mask_suffix")


@dataclass(frozen=True, slots=True)
class FileMask:
    """A mask in a file, its values mapped to class ids, turned as its picture is."""

    file: File
    ref: str
    picture: File
    id_of: AnyArray

    def open(self) -> ByteArray:
        """Class ids `(h, w)` uint8 on the upright picture. Raises `SourceError`, naming the mask."""
        try:
            values = stored_numbers(_encoded(self.file, MAX_FILE_BYTES))
        except UnreadableImage as bad:
            raise SourceError(f"a mask that cannot be read: {bad.problem}", where=self.ref) from None
        ids = self.id_of[values]
        unknown = np.unique(values[ids == _UNKNOWN])
        if unknown.size:
            raise SourceError(
                "a value of a mask that the list of classes does not name",
                where=self.ref,
                found=", ".join(map(str, unknown[:8])),
                todo=f"correct the list; or pixels that count nowhere: ?ignore={unknown[0]},255",
            )
        return self._on_the_picture(ids.astype(np.uint8))

    def _on_the_picture(self, ids: ByteArray) -> ByteArray:
        try:
            (width, height), orientation = stored_geometry(_encoded(self.picture, _HEADER_BYTES))
        except UnreadableImage:
            return ids  # the picture is quarantined with its reason
        if ids.shape == (height, width):
            return turned_upright(ids, orientation)
        if orientation >= 5 and ids.shape == (width, height):
            return ids  # drawn on the upright picture
        raise SourceError(
            "a mask of another size than its picture",
            where=self.ref,
            found=f"{ids.shape[1]} × {ids.shape[0]}",
            allowed=f"{width} × {height} pixels",
        )


def _encoded(file: File, most: int) -> Path | bytes:
    # What the readers of pictures take: a path, or the first bytes of what is behind a URL.
    if isinstance(file, LocalFile):
        return file.path
    found = file.read_start(most)
    if found is None:
        raise UnreadableImage("file not found")
    return found


_UNKNOWN = 256
_HEADER_BYTES = 4 << 20


class SegmentationSource:
    """Pairs of a picture and a mask with the same name, in two folders, and a file of class names.

    `images` and `masks` are folders in `path`, `classes` a file in it (see `class_list`); where they are not
    named the first of `IMAGES`, `MASKS` and `CLASSES` that is there. A pair has the same path but for the
    endings, and for `image_suffix` and `mask_suffix` before them (`_leftImg8bit`, `_gtFine_labelTrainIds`).
    Masks are grey or palette pictures of 8 bits (`MASK_ENDINGS`; not jpg, which changes values), as large as
    their pictures. A mask is taken to be drawn on the stored pixels and is turned by the picture's EXIF
    orientation as the picture is; one that fits the upright picture only is left as it is.

    Class ids are the positions in `classes`: the listed values in rising order. Values of `ignore` (default
    255, several with commas) become `UNLABELLED`, and are no classes even where the list names them; a value
    that is in neither is refused. Only `background` is taken for the background, by its name.

    `lists` are files with a picture's name (without ending) a line, such as
    `ImageSets/Segmentation/val.txt`; the name of the file is the split, a name without picture or mask is
    refused. Without them a first sub-folder called train, val or test (and whatever follows) is the split.
    Pictures without mask and masks without picture are left out and counted.
    """

    shuffled = True

    def __init__(
        self,
        path: Path | File,
        *,
        images: str | None = None,
        masks: str | None = None,
        classes: str | None = None,
        lists: str | None = None,
        ignore: str = "255",
        image_suffix: str = "",
        mask_suffix: str = "",
    ) -> None:
        path = file_at(path)
        if not path.is_dir():
            raise SourceError("not a folder", found=path)
        self._images = _part(path, images, IMAGES, "folder of pictures", "images")
        self._masks = _part(path, masks, MASKS, "folder of masks", "masks")
        ignored = _ignored(ignore)
        listed = read_class_list(_part(path, classes, CLASSES, "list of classes", "classes"))
        self._classes, self._id_of = _mapping(listed, ignored)
        dropped: Counter[str] = Counter()
        pictures = _by_key(self._images, EXTENSIONS, image_suffix, dropped)
        drawn = _by_key(self._masks, MASK_ENDINGS, mask_suffix, dropped)
        keys = sorted(pictures.keys() & drawn.keys())
        if not keys:
            raise SourceError(
                "no picture has a mask of the same name",
                found=f"{_example(pictures)} in {self._images.name}, {_example(drawn)} in {self._masks.name}",
                todo="say what stands before the endings: ?image_suffix=_leftImg8bit&mask_suffix=_labelIds",
            )
        splits = _from_lists(path, lists, pictures, drawn) if lists else {key: _split_of(key) for key in keys}
        self._rows = [(pictures[key], drawn[key], splits[key]) for key in keys if key in splits]
        self.dropped = dict(dropped)
        if not lists:
            self.dropped |= {NO_MASK: len(pictures) - len(keys), NO_PICTURE: len(drawn) - len(keys)}
        self._identity = {"kind": "segmentation", "ignore": ignore, "masks": self._digest()}

    @classmethod
    def from_spec(cls, rest: str, **options: Any) -> SegmentationSource:
        """The source of `segmentation:FOLDER?images=…&masks=…&classes=…&lists=…&ignore=0,255`."""
        place, written = split_options(rest, dict.fromkeys(_OPTIONS))
        return cls(place_of(place, "folder"), **{**options, **written})

    @property
    def identity(self) -> Mapping[str, str | int | float | bool]:
        """Kind, ignored values, and a digest of what the values mean and of the masks' names and sizes."""
        return dict(self._identity)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by the value that they have in the files; the position is the id in masks."""
        return self._classes

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(index)
        (name, nbytes), (drawn, _), split = self._rows[index]
        mask = FileMask(self._masks.child(drawn), drawn, self._images.child(name), self._id_of)
        return Sample(id=name, picture=picture_in(self._images, name, nbytes), split=split, mask=mask)

    def _digest(self) -> str:
        found = hashlib.sha256(self._id_of.tobytes())
        for _, (name, nbytes), _ in self._rows:
            size = self._masks.child(name).nbytes if nbytes is None else nbytes
            found.update(f"{name}\0{size}\n".encode())
        return found.hexdigest()[:16]


def _part(path: File, given: str | None, known: tuple[str, ...], what: str, option: str) -> File:
    tried = (given,) if given is not None else known
    parts = (named(path, name) for name in tried)
    found = next((part for part in parts if part.is_file() or part.is_dir()), None)
    if found is None:
        raise SourceError(
            f"no {what}",
            where=path.name,
            found=f"tried {', '.join(tried)}",
            todo=f"name it: segmentation:FOLDER?{option}=NAME",
        )
    return found


def _ignored(text: str) -> frozenset[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isascii() and part.isdigit() and int(part) <= 255 for part in parts):
        raise UsageError("bad value of option 'ignore'", found=text, allowed="values 0 to 255, with commas")
    return frozenset(map(int, parts))


def _mapping(listed: Mapping[int, str], ignored: frozenset[int]) -> tuple[tuple[str, ...], AnyArray]:
    classes = {value: name for value, name in listed.items() if value not in ignored}
    if len(classes) > UNLABELLED or max(classes, default=0) > 255:
        raise SourceError(
            "more classes than a mask of 8 bits can hold",
            found=f"{len(classes)} classes, values up to {max(classes)}",
            allowed=f"{UNLABELLED} classes, values up to 255",
        )
    id_of = np.full(256, _UNKNOWN, dtype=np.uint16)
    id_of[sorted(ignored)] = UNLABELLED
    id_of[list(classes)] = np.arange(len(classes))
    return tuple(classes.values()), id_of


def _by_key(folder: File, endings: tuple[str, ...], suffix: str, dropped: Counter[str]) -> dict[str, _Named]:
    found: dict[str, _Named] = {}
    for name, nbytes in pictures_below(folder, dropped).items():
        stem, _, ending = name.rpartition(".")
        if f".{ending.lower()}" not in endings or not stem.endswith(suffix):
            dropped["files of other names"] += 1
            continue
        key = stem.removesuffix(suffix) if suffix else stem
        if key in found:
            raise SourceError("two files of one name", where=folder.name, found=f"{found[key][0]} and {name}")
        found[key] = name, nbytes
    return found


def _split_of(key: str) -> str | None:
    first, slash, _ = key.partition("/")
    return first if slash and _SPLIT.fullmatch(first) else None


def _from_lists(
    path: File, lists: str, pictures: Mapping[str, _Named], drawn: Mapping[str, _Named]
) -> dict[str, str | None]:
    splits: dict[str, str | None] = {}
    for name in lists.split(","):
        file = named(path, name.strip())
        if not file.is_file():
            raise SourceError("there is no such list", found=name)
        for number, line in lines_of(file):
            key, at = line.strip(), f"{file.name}, line {number}"
            if not key:
                continue
            for there, what in ((pictures, "picture"), (drawn, "mask")):
                if key not in there:
                    raise SourceError(f"no {what} of this name", where=at, found=key)
            if key in splits:
                raise SourceError("a name stands twice in the lists", where=at, found=key)
            splits[key] = stem(file.name)
    return splits


def _example(names: Mapping[str, _Named]) -> str:
    return next((name for name, _ in names.values()), "nothing")

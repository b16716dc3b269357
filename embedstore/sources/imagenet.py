"""The source `imagenet:FOLDER`: sub-folders named by synset, and a file that says what the synsets are."""

from __future__ import annotations

import operator
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from embedstore.errors import SourceError, UsageError
from embedstore.sources.base import Sample
from embedstore.sources.folder import EXTENSIONS, picture_in, pictures_below
from embedstore.sources.reading.files import at as file_at
from embedstore.sources.reading.json_stream import an_object, json_value, plain
from embedstore.sources.reading.lines import lines_of
from embedstore.sources.reading.rows import TEXT
from embedstore.sources.samples.grouping import Codes
from embedstore.sources.samples.listed import chosen_splits, named, place_of, refuse_other_splits
from embedstore.sources.wording import split_options

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from embedstore.shapes import IntArray
    from embedstore.sources.reading.files import File

MAPPINGS = ("LOC_synset_mapping.txt", "synset_words.txt", "words.txt", "imagenet_class_index.json")
NAMES = ("first", "all", "synset")
SOLUTION = "LOC_val_solution.csv"
NO_SYNSET = "pictures in no folder of a synset"
_PICTURES = "ILSVRC/Data/CLS-LOC"


class ImagenetSource:
    """Pictures in folders named by synset (`n01440764`), with readable class names as labels.

    Layouts: `FOLDER/SYNSET/...`, `FOLDER/SPLIT/SYNSET/...` (the folder above the synset's is the split) and
    that of the Kaggle archive (`ILSVRC/Data/CLS-LOC/SPLIT/SYNSET/...`). A synset's folder is one that the
    mapping names, however deep the pictures lie in it. Pictures in none are looked up in the archive's
    `LOC_val_solution.csv` (its validation set is flat); those that it does not name are left out and counted.
    The sample's id is its path, sorted.

    `synsets` is the mapping file, else the first of `MAPPINGS` in the folder: lines `n01440764 tench, Tinca
    tinca` (blank or tab between), or `imagenet_class_index.json`. `names` says what a label is: the `first`
    name, `all` of them, or the `synset` itself. Where two synsets have the same first name (crane, maillot)
    both take all their names, and where these agree too the synset stands behind in brackets; that depends on
    the mapping alone. `classes` are in the order of their synsets, which is ImageNet's own order of classes.
    `splits` (`val`) takes only these.
    """

    shuffled = True

    def __init__(
        self,
        path: Path | File,
        *,
        synsets: Path | File | None = None,
        names: str = "first",
        splits: str | None = None,
    ) -> None:
        path = file_at(path)
        if not path.is_dir():
            raise SourceError("not a folder", found=path)
        if names not in NAMES:
            raise UsageError("bad value of option 'names'", found=names, allowed=", ".join(NAMES))
        mapping = _mapping_in(path) if synsets is None else file_at(synsets)
        label_of = labels_of_synsets(_read_mapping(mapping), names)
        root = path.child(_PICTURES) if path.child(_PICTURES).is_dir() else path
        dropped: Counter[str] = Counter()
        files = pictures_below(root, dropped)
        wanted = chosen_splits(splits)
        solved = _read_solution(path.child(SOLUTION), label_of)
        placed = [(name, *_place(name, label_of, solved)) for name in files]
        dropped[NO_SYNSET] = sum(synset is None for _, synset, _ in placed)
        refuse_other_splits(wanted, {s for _, synset, s in placed if synset and s}, path.name)
        taken = [one for one in placed if one[1] is not None and (wanted is None or one[2] in wanted)]
        if not taken:
            raise SourceError(
                "no pictures in folders that the synset mapping names",
                where=mapping.name,
                found=_examples(files),
                allowed=f"SYNSET/picture or SPLIT/SYNSET/picture; {', '.join(EXTENSIONS)}",
            )
        self._root = root
        self._sizes = [files[name] for name, _, _ in taken] if root.remote else None
        self._names = pa.array([name for name, _, _ in taken], TEXT)
        self._synset = _codes([synset for _, synset, _ in taken])
        self._split = _codes([split for _, _, split in taken])
        self._label_of = label_of
        self.dropped = dict(dropped)
        self._identity = {
            "kind": "imagenet",
            "names": names,
            **({} if splits is None else {"splits": splits}),
        }

    @classmethod
    def from_spec(cls, rest: str, **options: Any) -> ImagenetSource:
        """The source of `imagenet:FOLDER?synsets=FILE&names=all&splits=val`; FILE relative to FOLDER."""
        place, written = split_options(rest, {"synsets": None, "names": NAMES, "splits": None})
        path = place_of(place, "folder")
        given: dict[str, Any] = {**options, **written}
        if "synsets" in written:
            given["synsets"] = named(path, written["synsets"])
        return cls(path, **given)

    @property
    def identity(self) -> Mapping[str, str | int | float | bool]:
        """Kind and options; what lies in the folder is no part of it."""
        return dict(self._identity)

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels that occur, in the order of their synsets."""
        return tuple(self._label_of[synset] for synset in sorted(self._synset.values))

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(index)
        name = self._names[index].as_py()
        synset = self._synset[index] or ""
        return Sample(
            id=name,
            picture=picture_in(self._root, name, self._sizes[index] if self._sizes is not None else None),
            label=self._label_of[synset],
            split=self._split[index],
        )


def _mapping_in(path: File) -> File:
    found = next((path.child(name) for name in MAPPINGS if path.child(name).is_file()), None)
    if found is None:
        raise SourceError(
            "no file says what the synsets are",
            found=path,
            allowed=", ".join(MAPPINGS),
            todo="name it: imagenet:FOLDER?synsets=FILE; or read folder:FOLDER, labelled by its sub-folders",
        )
    return found


def _read_mapping(path: File) -> dict[str, str]:
    """Synset -> its names, as the file says them."""
    if not path.is_file():
        raise SourceError("there is no such file", where="synsets", found=path.name)
    found: dict[str, str] = {}
    for synset, text, at in _index_json(path) if path.name.endswith(".json") else _mapping_lines(path):
        if found.setdefault(synset, text) != text:
            raise SourceError("a synset stands twice", where=at, found=synset)
    if not found:
        raise SourceError("no synsets in this file", where=path.name)
    return found


def _mapping_lines(path: File) -> Iterator[tuple[str, str, str]]:
    for number, line in lines_of(path):
        if not line.strip():
            continue
        synset, *names = re.split(r"[ \t]+", line.strip(), maxsplit=1)
        if not names or "\0" in line:
            raise SourceError(
                "not a synset and its names",
                where=f"{path.name}, line {number}",
                found=ascii(line)[:80],
                allowed="n01440764 tench, Tinca tinca",
            )
        yield synset, names[0].strip(), f"{path.name}, line {number}"


def _index_json(path: File) -> Iterator[tuple[str, str, str]]:
    for key, value in an_object(json_value(path), path.name).items():
        where = f"{path.name}, {key}"
        if not (isinstance(value, list) and len(value) == 2 and all(isinstance(v, str) for v in value)):
            raise SourceError(
                "not a synset and its name",
                where=where,
                found=ascii(value)[:80],
                allowed='{"0": ["n01440764", "tench"], ...}',
            )
        synset, name = (plain(text, "a synset or name", where).strip() for text in value)
        name = name.replace("_", " ").strip()
        if not (synset and name):
            raise SourceError("an empty synset or name", where=where)
        yield synset, name, where


def labels_of_synsets(names_of: Mapping[str, str], names: str) -> dict[str, str]:
    """Synset -> label, of synset -> its names with commas: the `first` name, `all`, or the `synset` itself.

    No two labels are equal: see `ImagenetSource`.
    """
    if names == "synset":
        return {synset: synset for synset in names_of}
    first = {synset: text.partition(",")[0].strip() or text for synset, text in names_of.items()}
    labels = first if names == "first" else dict(names_of)
    for other in (names_of, {synset: f"{first[synset]} ({synset})" for synset in names_of}):
        count = Counter(labels.values())
        labels = {synset: label if count[label] == 1 else other[synset] for synset, label in labels.items()}
    return labels


def _read_solution(path: File, label_of: Mapping[str, str]) -> dict[str, str]:
    """Name of a picture without its ending -> synset; empty where there is no such file."""
    found: dict[str, str] = {}
    for number, line in lines_of(path) if path.is_file() else ():
        name, _, boxes = line.partition(",")
        synset = boxes.partition(" ")[0].strip()
        if not line.strip() or (number == 1 and name.strip() == "ImageId"):
            continue
        if synset not in label_of or found.setdefault(name, synset) != synset:
            raise SourceError(
                "not a picture and a known synset, or one that stands twice",
                where=f"{path.name}, line {number}",
                found=ascii(line)[:80],
            )
    return found


def _place(
    name: str, label_of: Mapping[str, str], solved: Mapping[str, str]
) -> tuple[str | None, str | None]:
    # The synset whose folder a picture lies in, and the split: the folder above.
    *folders, file = name.split("/")
    at = next((k for k, folder in enumerate(folders) if folder in label_of), None)
    if at is None:
        synset = solved.get(file.rpartition(".")[0])
        return synset, folders[-1] if synset and folders else None
    return folders[at], folders[at - 1] if at else None


def _codes(values: list[str | None]) -> Codes:
    known = sorted({value for value in values if value is not None})
    place = {value: code for code, value in enumerate(known)}
    codes: IntArray = np.fromiter((place.get(v, -1) if v is not None else -1 for v in values), np.int64)
    return Codes(codes, tuple(known))


def _examples(names: Iterable[str]) -> str:
    files = list(names)
    return ", ".join(files[:3]) + (", …" if len(files) > 3 else "") if files else "no pictures"

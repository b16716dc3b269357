"""The source `hf:PLACE`: a Hugging Face data set that is on this machine, or behind a URL."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.errors import SourceError, UsageError
from embedstore.sources.hf.columns import choose, features_of
from embedstore.sources.hf.layout import find_parts
from embedstore.sources.reading.arrow_parts import (
    GroupPicture,
    RowGroups,
    arrow_batches,
    parquet_batches,
    plain_values,
    read_schema,
)
from embedstore.sources.reading.shards import PackedPicture, Shards
from embedstore.sources.samples.gathering import Gathered, clean
from embedstore.sources.samples.grouped import GroupedSource
from embedstore.sources.samples.grouping import check_language
from embedstore.sources.webdataset.source import sorted_labels
from embedstore.sources.wording import split_options

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from embedstore.sources.base import Picture
    from embedstore.sources.hf.columns import Chosen
    from embedstore.sources.hf.layout import Part

_OPTIONS: dict[str, Sequence[str] | None] = {"split": None, "config": None}
_NO_CLASS = -1


class HfSource(GroupedSource):
    """Rows of a data set in the layouts of the `datasets` library, which is not needed to read them.

    The picture is the column of type Image (or called `image`), captions are the columns `captions`,
    `caption`, `caption_0` … or `text` (a list gives several), the label is `label` or the only class label,
    by its name; `language`, `split` and `id` are taken where they are there. `columns` names others
    (`caption=title`, several with `;`; an empty name: not read). The id is the column `id`, else the split
    and the number of the row in it. Each row has the split of its column `split`, else that of its file.

    Planning reads the columns of text. Pictures in Arrow files are then read one by one by their offset,
    those in Parquet by whole row groups, in the data set's own order where they are too many to be kept.

    Texts that are none are left out and counted, as in tars; damaged files and equal ids are refused with
    `SourceError`. Nothing of the data set is run, and nothing is downloaded.
    """

    def __init__(
        self,
        place: str | Path,
        *,
        columns: Mapping[str, str] | None = None,
        language: str = "en",
        split: str | None = None,
        config: str | None = None,
    ) -> None:
        columns, language = dict(columns or {}), check_language(language)
        layout = find_parts(str(place), config=config, split=split)
        self._parts = layout.parts
        first = layout.parts[0]
        schema = read_schema(first.file, first.kind)
        chosen = choose(schema, features_of(schema, layout.features), columns, first.file.name)
        self._names = chosen.names
        self._arrow = Shards([part.file for part in layout.parts], in_order=False)
        self._groups: RowGroups | None = None
        if chosen.image is not None and first.kind == "parquet":
            self._groups = RowGroups([part.file for part in layout.parts], chosen.image)
        self._rows = _Rows(chosen, language)
        for number, part in enumerate(layout.parts):
            self._rows.start(part)
            for batch, offset, nbytes in self._batches(number, part, chosen):
                self._rows.add(number, batch, offset, nbytes)
        self._refuse_none(chosen)
        self.dropped: dict[str, int] = dict(self._rows.dropped)
        self._samples = self._rows.gathered.done()
        self._refuse_twice(self._samples.ids)
        self.shuffled = self._groups.fits if self._groups is not None else not first.file.remote
        self._arrow.in_order = not self.shuffled
        identity: dict[str, str | int | float | bool] = {"kind": "hf", "language": language}
        identity |= {"split": split} if split is not None else {}
        identity |= {"config": config} if config is not None else {}
        identity |= {f"column {ours}": theirs for ours, theirs in sorted(columns.items())}
        self._identity = identity

    @classmethod
    def from_spec(cls, rest: str, **options: Any) -> HfSource:
        """The source of `hf:PLACE?split=NAME&config=NAME`, PLACE a folder, URL or cached name."""
        place, said = split_options(rest, _OPTIONS)
        return cls(place, **(said | options))

    def _batches(self, number: int, part: Part, chosen: Chosen) -> Iterator[tuple[Any, Any, Any]]:
        # Batches with the place of each picture: offset and size in Arrow, the number of the row in Parquet.
        if part.kind == "arrow":
            self._arrow.note(number)
            for batch, found in arrow_batches(part.file, chosen.read, chosen.image):
                none = np.full(len(batch), _NO_CLASS, np.int64)
                yield (batch, none, none) if found is None else (batch, found.offset, found.nbytes)
            return
        there = self._groups.there(number) if self._groups is not None else None
        row = 0
        if there is not None and not chosen.read:
            yield None, np.arange(len(there)), np.where(there, 0, -1)
            return
        for batch in parquet_batches(part.file, chosen.read):
            rows = np.arange(row, row + len(batch), dtype=np.int64)
            row += len(batch)
            held = np.zeros(len(batch), np.bool_) if there is None else there[rows]
            yield batch, rows, np.where(held, 0, -1)

    def _refuse_none(self, chosen: Chosen) -> None:
        if len(self._rows.gathered):
            return
        raise SourceError(
            "no samples in this data set",
            where=self._parts[0].file.name,
            found=f"{self._rows.count} rows, no picture in column {chosen.image!r} and no text in "
            f"{', '.join(chosen.captions) or 'any column'}",
            todo="pictures that lie outside are read as folder:PATH, or kept inside by save_to_disk",
        )

    def _refuse_twice(self, ids: Any) -> None:
        codes = ids.dictionary_encode()
        if len(codes.dictionary) < len(ids):
            counts = np.bincount(codes.indices.to_numpy())
            twice = codes.dictionary[int(np.argmax(counts > 1))].as_py()
            raise SourceError(
                "two samples share an id",
                where=self._parts[0].file.parent.name,
                found=twice,
                todo="--column id= numbers the rows, --column id=NAME takes another column",
            )

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the class label in their order, else the labels that occur."""
        return self._names or sorted_labels(self._samples.label.values)

    def _picture(self, index: int, id_: str) -> Picture | None:
        nbytes = self._rows.nbytes[index]
        if nbytes < 0:
            return None
        part, place = self._rows.part[index], self._rows.place[index]
        if self._groups is not None:
            return GroupPicture(self._groups, part, place, id_)
        return PackedPicture(self._arrow, part, place, nbytes, id_)


class _Rows:
    """Rows on their way to samples. `part`, `place` and `nbytes` say where the picture of a sample lies."""

    def __init__(self, chosen: Chosen, language: str) -> None:
        self._chosen, self._language = chosen, language
        self._split, self._where, self._row = "train", "", 0
        self._starts: dict[str, int] = {}
        self.gathered, self.dropped, self.count = Gathered(), Counter[str](), 0
        self.part, self.place, self.nbytes = array("i"), array("q"), array("q")

    def start(self, part: Part) -> None:
        """The next file."""
        self._starts[self._split] = self._row
        self._split, self._where = part.split, part.file.name
        self._row = self._starts.get(part.split, 0)

    def add(self, number: int, batch: Any, offset: Any, nbytes: Any) -> None:
        """The rows of one batch."""
        values = {name: plain_values(batch.column(name), self._where) for name in self._chosen.read}
        for k in range(len(offset)):
            row = {name: column[k] for name, column in values.items()}
            self._add_row(row, number, int(offset[k]), int(nbytes[k]))
        self.count += len(offset)

    def _add_row(self, row: Mapping[str, Any], part: int, place: int, nbytes: int) -> None:
        number, self._row = self._row, self._row + 1
        texts = self._texts(row)
        if nbytes < 0 and not texts:
            self.dropped["rows without picture or text"] += 1
            return
        self.part.append(part)
        self.place.append(place)
        self.nbytes.append(nbytes)
        self.gathered.add(
            self._id(row, number),
            texts=texts,
            language=self._said_language(row),
            label=self._label(row),
            split=self._value(row, "split") or self._split,
        )

    def _texts(self, row: Mapping[str, Any]) -> list[str]:
        raw: list[Any] = []
        for name in self._chosen.captions:
            value = row[name]
            raw += value if isinstance(value, list) else [value]
        return [text for one in raw if (text := clean(one, self.dropped)) is not None]

    def _value(self, row: Mapping[str, Any], ours: str) -> str | None:
        name = getattr(self._chosen, ours)
        return None if name is None else clean(row[name], self.dropped, f"{ours}s")

    def _id(self, row: Mapping[str, Any], number: int) -> str:
        if self._chosen.id is None:
            return f"{self._split}/{number}"
        found = self._value(row, "id")
        if found is None:
            raise SourceError("no id in this row", where=f"{self._where}, row {number} of {self._split}")
        return found

    def _label(self, row: Mapping[str, Any]) -> str | None:
        names, name = self._chosen.names, self._chosen.label
        if not names or name is None:
            return self._value(row, "label")
        value = row[name]
        if isinstance(value, int) and 0 <= value < len(names):
            return names[value]
        if value is not None and value != _NO_CLASS:
            self.dropped["labels that are no class"] += 1
        return None

    def _said_language(self, row: Mapping[str, Any]) -> str:
        said = self._value(row, "language")
        if said is None:
            return self._language
        try:
            return check_language(said)
        except UsageError:
            self.dropped["languages that are no tag, e.g. en"] += 1
            return self._language

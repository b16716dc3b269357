"""The source `table:PATH`: a csv, tsv, jsonl or Parquet file of captions, labels and pictures."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from embedstore.errors import SourceError
from embedstore.sources.reading.files import at
from embedstore.sources.reading.parquet_bytes import ParquetPicture
from embedstore.sources.reading.tables import read_rows
from embedstore.sources.samples.grouped import GroupedSource
from embedstore.sources.samples.grouping import check_language, group_rows
from embedstore.sources.samples.places import Places

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from embedstore.sources.base import Picture
    from embedstore.sources.reading.files import File

NEEDED = (("caption", "captions", "image"),)


class TableSource(GroupedSource):
    """Samples of one table, random access, kept as columns (some 100 bytes a row besides the texts).

    Columns, all but one of `image`, `caption` and `captions` optional: `image` (path; in Parquet also bytes,
    or a struct of `bytes` and `path`), `caption` or a list `captions` (in csv a JSON list), `label`, `split`,
    `language`, `role`, `category` (of a negative), `id`. How rows become samples stands in `grouping`, where
    pictures are looked for in `places`, what is refused in `rows`. Without an image column the table is a
    pool of texts.

    `columns` maps our names to the file's (an empty name: not read), `language` is that of captions that name
    none. `dropped` counts what was left out. `shuffled` is False only where pictures inside a Parquet file
    are too many for memory.

    Errors: `SourceError`, naming the line (csv, jsonl; from 1) or the row (Parquet; from 0).
    """

    def __init__(
        self,
        path: Path | File,
        *,
        columns: Mapping[str, str] | None = None,
        image_root: Path | File | None = None,
        language: str = "en",
    ) -> None:
        path = at(path)
        if not path.is_file():
            raise SourceError("there is no such table", found=path)
        columns = dict(columns or {})
        language = check_language(language)
        rows = read_rows(path, columns, NEEDED)
        self._places = None
        if "image" in rows and rows.encoded is None:
            self._places = Places(path.parent, image_root)
            rows = replace(rows, columns={**rows.columns, "image": self._places.plain_names(rows)})
        self._samples = group_rows(rows, language=language)
        if not len(self._samples):
            raise SourceError("no samples in this table", where=path.name, found=f"{rows.count} rows")
        if self._places is not None:
            self._places.refuse_none((name.as_py() for name in self._samples.images), path.name)
        self._encoded = rows.encoded
        self.shuffled = rows.encoded is None or rows.encoded.fits
        self.dropped: dict[str, int] = {"empty captions": self._samples.empty_captions}
        named = {f"column {ours}": theirs for ours, theirs in sorted(columns.items())}
        self._identity = {"kind": "table", "language": language, **named}

    @classmethod
    def from_spec(cls, rest: str, **options: Any) -> TableSource:
        """The source of `table:REST`, REST a path or URL."""
        return cls(at(rest), **options)

    def _picture(self, index: int, id_: str) -> Picture | None:  # noqa: ARG002 - named by its file
        if self._samples.images is None:
            return None
        name = self._samples.images[index].as_py()
        if self._encoded is not None:
            return ParquetPicture(self._encoded, int(self._samples.first_row[index]), name)
        return self._places.picture(name) if self._places is not None else None

"""Open a store: its plan, tables, masks, thumbnails and features. Never imports torch."""

from __future__ import annotations

import difflib
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq

from embedstore.errors import CorruptStoreError, IncompleteError, StoreError, StoreNotFoundError
from embedstore.store import geometry, journal, layout, tables
from embedstore.store.advice import make_again
from embedstore.store.create import read_plan
from embedstore.store.feature import Feature
from embedstore.store.ids import rows_of_ids
from embedstore.store.remote.cache_folder import is_mirrored
from embedstore.store.remote.mirror import open_mirror
from embedstore.store.remote.objects import parse_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from os import PathLike

    import pyarrow as pa

    from embedstore.documents import FeatureHeader, Plan, Table
    from embedstore.shapes import ByteArray, IntArray
    from embedstore.store.reads.chunks import Verify
    from embedstore.store.subsets.reading import Subset

# The beginning of a URL behind a '+': what is before is another store.
_JOINED_URL = re.compile(r"\+[A-Za-z][A-Za-z0-9]+:/")


def is_store(path: Path) -> bool:
    """Whether there is a store at this place."""
    return layout.plan(path).is_file()


def names_urls(text: str) -> bool:
    """Whether a URL stands behind a '+', so that the text names more than one store."""
    return _JOINED_URL.search(text) is not None


def store_at(text: str) -> Path | None:
    """The folder of the store that `text` names, none where it names none: of a URL, its mirror's.

    Raises `UsageError` for a URL that no store can have, `RemoteError` where it cannot be reached.
    """
    url = None if names_urls(text) else parse_url(text)
    if url is not None:
        return open_mirror(url)
    return Path(text) if is_store(Path(text)) else None


def open_store(path: str | PathLike[str]) -> Store:
    """Open a store for reading; `A+B` opens several with equal cards as one (`JoinedStore`).

    A URL (s3, gs, memory, http) is a store as any other: what is read of it is kept in a bounded cache. A
    store whose path holds a '+' is opened as it is. Raises `StoreNotFoundError` where there is none,
    `FormatVersionError` for a later format, `CorruptStoreError` for a plan that cannot be read,
    `MismatchError` where an id stands in two of several stores.
    """
    from embedstore.store.joined import missing_part, open_joined, split_joined

    paths = split_joined(str(path))
    if paths is None:
        return _open_one(missing_part(str(path)))
    opened = [_open_one(p) for p in paths]
    return opened[0] if len(opened) == 1 else open_joined(paths, opened)


def _open_one(place: Path) -> Store:
    from embedstore.store.remote.store import RemoteStore

    if not is_store(place):
        half = (place / layout.ZARR).is_file() and (place / layout.TABLES).is_dir()
        raise StoreNotFoundError(
            "there is no store here",
            where=parse_url(str(place)) or place,
            found="a planning that was interrupted" if half else "no plan.json",
            todo="make it with: embedstore encode SOURCE STORE ...",
        )
    return (RemoteStore if is_mirrored(place) else Store)(place, read_plan(place))


class Store:
    """One directory of tables and features. Cheap to make; reads only what is asked for."""

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path, self.plan = path, plan

    def __repr__(self) -> str:
        names = ", ".join(self.features())
        return f"Store({self.plan.images} images, {self.plan.texts} texts, features {names})"

    @property
    def place(self) -> str:
        """Where the store is: the path, or the URL of a remote store."""
        return str(self.path)

    @property
    def fingerprint(self) -> str:
        """sha256 over the plan: the identity of the rows and their order."""
        return self.plan.fingerprint

    @property
    def parts(self) -> tuple[Store, ...]:
        """The stores that are read here: this one."""
        return (self,)

    @property
    def lineage(self) -> tuple[str, ...]:
        """Fingerprints of all stores that these rows came from: the parts, and what they are compacts of."""
        found = [part.fingerprint for part in self.parts]
        for part in self.parts:
            if part.plan.source.get("kind") == "compact":
                found += [f for f in str(part.plan.source.get("of", "")).split("+") if f]
        return tuple(dict.fromkeys(found))

    @property
    def nbytes(self) -> int:
        """Bytes of the tables and of all finished units."""
        sizes = [
            p.stat().st_size for name in ("images", "texts", "masks") for p in layout.parts(self.path, name)
        ]
        return sum(sizes) + sum(self.feature_nbytes(name) for name in self.features())

    def images(self, columns: list[str] | None = None) -> pa.Table:
        """The images table in row order: id, picture, nbytes, label, split."""
        return tables.read_table(self.path, "images", columns)

    def texts(self, columns: list[str] | None = None) -> pa.Table:
        """The texts table in row order: id, image, text, language, role, category."""
        return tables.read_table(self.path, "texts", columns)

    def rows_of(self, ids: Iterable[str], table: Table = "images") -> IntArray:
        """The row of each id `(n,)` int64 in the given order; `UsageError` names ids that are not there."""
        column = (self.images if table == "images" else self.texts)(["id"])["id"]
        return rows_of_ids(column, ids, where=f"{self.path.name}, table {table}")

    def features(self) -> tuple[str, ...]:
        """Names of all features, complete or begun, sorted."""
        return layout.feature_names(self.path)

    def _folder(self, name: str) -> Path:
        if name not in self.features():
            near = difflib.get_close_matches(name, self.features(), n=1)
            raise StoreError(
                f"no feature {name!r}",
                allowed=", ".join(self.features()) or "none yet",
                todo=f"did you mean {near[0]!r}?" if near else None,
            )
        return layout.feature(self.path, name)

    def header(self, name: str) -> FeatureHeader:
        """What was decided about a feature, complete or begun."""
        return journal.read_header(self._folder(name))

    def progress(self, name: str) -> tuple[int, int]:
        """Units that have a record, and all units."""
        folder, units = self._folder(name), self.header(name).units
        if journal.read_manifest(folder) is not None:
            return units, units
        return len(layout.records(folder)), units

    def complete(self, name: str) -> bool:
        """Whether a feature is finished and may be read."""
        return (self._folder(name) / layout.MANIFEST).is_file()

    def feature_nbytes(self, name: str) -> int:
        """Bytes of a feature's finished units."""
        folder = self._folder(name)
        manifest = journal.read_manifest(folder)
        if manifest is not None:
            return manifest.nbytes
        records = (journal.read_record(folder, int(p.stem)) for p in layout.records(folder))
        return sum(f.nbytes for r in records if r is not None for f in r.files)

    def __getitem__(self, name: str) -> Feature:
        return self.feature(name)

    def feature(self, name: str, *, verify: Verify = "first") -> Feature:
        """Open a complete feature; `verify` says when checksums of chunks are tested.

        Raises `StoreError` for an unknown name, `IncompleteError` with the progress for one that is begun.
        """
        folder = self._folder(name)
        manifest = journal.read_manifest(folder)
        if manifest is None:
            done, units = self.progress(name)
            raise IncompleteError(
                f"feature {name!r} is not complete",
                found=f"{done} of {units} units",
                todo=make_again(self.path, self.header(name)),
            )
        if manifest.header != journal.read_header(folder) or manifest.header.name != name:
            raise CorruptStoreError("manifest and header do not agree", where=name)
        geometry.check_header(manifest.header, self.plan)
        self._refuse_other_rows(manifest.header.table)
        return Feature(folder, manifest, verify)

    def _refuse_other_rows(self, table: Table) -> None:
        """Everything that is as long as a table is bounded by what the table's files really hold."""
        said = self.plan.images if table == "images" else self.plan.texts
        found = tables.count_rows(self.path, table)
        if found != said:
            raise CorruptStoreError(
                f"the plan says {said} {table}, the table holds {found}",
                where=self.path.name,
                todo="embedstore verify STORE",
            )

    def subsets(self) -> tuple[str, ...]:
        """Names of all subsets, sorted."""
        from embedstore.store.subsets.reading import subset_names

        return subset_names(self)

    def subset(self, name: str) -> Subset:
        """A named choice of rows; `StoreError` for an unknown name."""
        from embedstore.store.subsets.reading import open_subset

        return open_subset(self, name)

    def masks(self, rows: Sequence[int] | IntArray) -> list[ByteArray | None]:
        """Class ids `(h, w)` uint8 of each image row, none where a row has no mask."""
        from PIL import Image

        def decode(png: bytes) -> ByteArray:
            with Image.open(io.BytesIO(png), formats=["PNG"]) as mask:
                return np.asarray(mask.convert("L"))

        found: dict[int, ByteArray] = {}
        wanted = np.unique(np.asarray(rows, dtype=np.int64))
        for group in self._mask_groups(wanted):
            keep = np.isin(group["image"].to_numpy(), wanted)
            for line in group.filter(keep).to_pylist():
                found[line["image"]] = decode(line["png"])
        return [found.get(int(r)) for r in rows]

    def _mask_groups(self, wanted: IntArray) -> Iterator[pa.Table]:
        """Row groups of the masks table that hold a wanted image row."""
        for part in layout.parts(self.path, "masks"):
            images = tables.read_file(part, "masks", ["image"])["image"].to_numpy()
            hits = np.flatnonzero(np.isin(images, wanted))
            with pq.ParquetFile(part, page_checksum_verification=True) as source:
                ends = np.cumsum(
                    [source.metadata.row_group(i).num_rows for i in range(source.num_row_groups)]
                )
                for group in np.unique(np.searchsorted(ends, hits, side="right")):
                    yield source.read_row_group(int(group))

    def thumbnails(self, rows: Sequence[int] | IntArray) -> list[bytes | None]:
        """Small JPEGs of image rows from a complete feature that keeps them; none where there is none."""
        for name in self.features():
            header = self.header(name)
            if header.thumbnails and self.complete(name):
                return thumbnails_of(layout.feature(self.path, name), header, rows)
        return [None] * len(rows)


def thumbnails_of(folder: Path, header: FeatureHeader, rows: Sequence[int] | IntArray) -> list[bytes | None]:
    """Small JPEGs that a feature with thumbnails keeps of some image rows."""
    wanted = np.asarray(rows, dtype=np.int64)
    found: dict[int, bytes] = {}
    for unit in np.unique(wanted // header.shard_rows):
        table = tables.read_file(layout.of_feature(folder, layout.thumbnails(int(unit))), "thumbnails")
        keep = np.isin(table["row"].to_numpy(), wanted)
        found |= {line["row"]: line["jpeg"] for line in table.filter(keep).to_pylist()}
    return [found.get(int(r)) for r in wanted]

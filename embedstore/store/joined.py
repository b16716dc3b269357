"""`A+B`: several stores with equal cards read as one. Nothing is copied; every row keeps its store.

Image rows of the joined store are those of A, then those of B, ...; text rows likewise. This is how a data
set grows: the tables and the plan of a store never change.
"""

from __future__ import annotations

import difflib
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedstore.documents import Plan
from embedstore.errors import MismatchError, StoreError, UsageError
from embedstore.store import tables
from embedstore.store.ids import shown
from embedstore.store.joined_feature import (
    JoinedFeature,
    differences,
    joined_header,
    refuse_other_feature,
    with_known_probe,
)
from embedstore.store.reader import Store, names_urls, store_at
from embedstore.store.remote.mirror import shown as shown_place

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from embedstore.documents import FeatureHeader
    from embedstore.shapes import AnyArray, ByteArray, IntArray
    from embedstore.store.feature import Feature
    from embedstore.store.reads.chunks import Verify

SIGN = "+"


def split_joined(text: str) -> list[Path] | None:
    """The stores that `A+B` names, none where it names none; a remote one by the folder of its mirror.

    A store whose path holds a '+' stays whole.
    """
    whole = store_at(text)
    if whole is not None:
        return [whole]
    for at, sign in enumerate(text):
        if sign == SIGN and (first := store_at(text[:at])) is not None:
            rest = split_joined(text[at + 1 :])
            if rest is not None:
                return [first, *rest]
    return None


def missing_part(text: str) -> Path:
    """Which part of `A+B` is no store; the whole text where nothing in it names a store."""
    at = max(
        (i for i, sign in enumerate(text) if sign == SIGN and store_at(text[:i]) is not None), default=None
    )
    if at is not None:
        return missing_part(text[at + 1 :])
    named = text.split(SIGN)
    if len(named) > 1 and any(store_at(piece) is not None for piece in named):
        return next(Path(piece) for piece in named if store_at(piece) is None)
    return Path(text)


def refuse_joined(path: str | PathLike[str], *, what: str) -> None:
    """`UsageError` where a path or URL names several stores and `what` writes to one."""
    text = str(path)
    stores = (split_joined(text) or []) if SIGN in text else []
    if len(stores) > 1 or names_urls(text):
        raise UsageError(
            f"{what} works on one store",
            found=path,
            allowed=" or ".join(map(shown_place, stores)) or None,
            todo="give one of them; A+B is only read",
        )


def join_plans(stores: Sequence[Store]) -> Plan:
    """The plan of the joined rows: sums of counts, and a source that names every part."""
    plans = [s.plan for s in stores]
    digest = hashlib.sha256("\n".join(p.fingerprint for p in plans).encode())
    return Plan(
        format_version=max(p.format_version for p in plans),
        source={"kind": "joined", "stores": len(plans)},
        source_sha256=digest.hexdigest(),
        order="shuffled" if all(p.order == "shuffled" for p in plans) else "source",
        seed=plans[0].seed,
        images=sum(p.images for p in plans),
        texts=sum(p.texts for p in plans),
        classes=_classes(stores),
        splits=_sums([p.splits for p in plans]),
        languages=_sums([p.languages for p in plans]),
        roles=_sums([p.roles for p in plans]),
        masks=any(p.masks for p in plans),
    )


def _sums(counts: list[dict[str, int]]) -> dict[str, int]:
    names = sorted({name for part in counts for name in part})
    return {name: sum(part.get(name, 0) for part in counts) for name in names}


def _classes(stores: Sequence[Store]) -> tuple[str, ...]:
    """Class ids in masks are positions in `classes`, so stores with masks must have the same."""
    masked = [s for s in stores if s.plan.masks]
    for other in masked[1:]:
        if other.plan.classes != masked[0].plan.classes:
            raise MismatchError(
                "the class ids of the masks do not mean the same",
                where=f"{masked[0].place} and {other.place}",
                found=f"{len(masked[0].plan.classes)} and {len(other.plan.classes)} classes, "
                f"first {masked[0].plan.classes[:3]} and {other.plan.classes[:3]}",
                todo="make the second store from a source with the same class names in the same order",
            )
    if masked:
        return masked[0].plan.classes
    return tuple(dict.fromkeys(name for s in stores for name in s.plan.classes))


def refuse_shared_ids(stores: Sequence[Store]) -> None:
    """`MismatchError` that names ids which stand in more than one of these stores."""
    for table in ("images", "texts"):
        columns = [_ids(s, table) for s in stores]
        for later in range(1, len(stores)):
            for earlier in range(later):
                twice = pc.is_in(columns[later], value_set=columns[earlier])
                if pc.any(twice).as_py():
                    ids = columns[later].filter(twice)
                    raise MismatchError(
                        f"{len(ids)} ids of the table {table!r} stand in both stores",
                        where=f"{stores[earlier].place} and {stores[later].place}",
                        found=shown(ids[:6].to_pylist()),
                        todo="leave them out of one: embedstore compact STORE --drop IDS --to NEW",
                    )


def _ids(store: Store, table: str) -> pa.Array[Any]:
    column = tables.read_table(store.path, table, ["id"])["id"]
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


class JoinedStore(Store):
    """Several stores read as one; the same surface as `Store`. `parts` are the stores, in order.

    Raises `MismatchError` where an id stands in two of them, or their masks mean different classes.
    """

    def __init__(self, stores: Sequence[Store]) -> None:
        refuse_shared_ids(stores)
        super().__init__(Path(SIGN.join(str(s.path) for s in stores)), join_plans(stores))
        self._stores = tuple(stores)
        self._image_starts = np.cumsum([0, *(s.plan.images for s in stores)])

    def __repr__(self) -> str:
        return f"Joined{super().__repr__()}"

    @property
    def parts(self) -> tuple[Store, ...]:
        """The stores that are read as one."""
        return self._stores

    @property
    def place(self) -> str:
        """Paths or URLs of all parts."""
        return SIGN.join(s.place for s in self._stores)

    @property
    def nbytes(self) -> int:
        """Bytes of the tables and of all finished units of all parts."""
        return sum(s.nbytes for s in self._stores)

    def images(self, columns: list[str] | None = None) -> pa.Table:
        """The images tables one after the other."""
        return pa.concat_tables([s.images(columns) for s in self._stores])

    def texts(self, columns: list[str] | None = None) -> pa.Table:
        """The texts tables one after the other; `image` is the row of the joined images table."""
        found = []
        for store, first in zip(self._stores, self._image_starts.tolist(), strict=False):
            table = store.texts(columns)
            if first and "image" in table.column_names:
                at = table.column_names.index("image")
                table = table.set_column(at, table.schema.field(at), pc.add(table["image"], first))
            found.append(table)
        return pa.concat_tables(found)

    def features(self) -> tuple[str, ...]:
        """Names of the features that every part has and that can be read as one, sorted."""
        found = sorted({name for store in self._stores for name in store.features()})
        return tuple(name for name in found if self._common(name))

    def _common(self, name: str) -> bool:
        owners = self._owners(name)
        first, *rest = [store.header(name) for store in owners]
        return not self._lacking(name, owners) and not any(differences(first, other) for other in rest)

    def _owners(self, name: str) -> list[Store]:
        return [s for s in self._stores if name in s.features()]

    def _lacking(self, name: str, owners: Sequence[Store]) -> list[str]:
        """Parts that have rows for this feature and no such feature."""
        if not owners:
            return [s.place for s in self._stores]
        images = owners[0].header(name).table == "images"
        others = [s for s in self._stores if s not in owners]
        return [s.place for s in others if (s.plan.images if images else s.plan.texts)]

    def _with(self, name: str) -> list[Store]:
        """The parts that have the feature; those without rows of its table may lack it."""
        owners = self._owners(name)
        lacking = self._lacking(name, owners)
        if lacking:
            near = difflib.get_close_matches(name, self.features(), n=1)
            some = bool(owners)
            raise StoreError(
                f"no feature {name!r}",
                where=", ".join(lacking) if some else None,
                allowed=", ".join(self.features()) or "no feature that all of these stores have",
                todo=f"did you mean {near[0]!r}?"
                if near
                else "make it there with: embedstore encode SOURCE STORE ..."
                if some
                else None,
            )
        return owners

    def header(self, name: str) -> FeatureHeader:
        """The joined header; `MismatchError` with the differing fields where the parts cannot be joined."""
        owners = self._with(name)
        headers = [store.header(name) for store in owners]
        for place, (store, other) in enumerate(zip(owners[1:], headers[1:], strict=True), 1):
            refuse_other_feature(
                with_known_probe(headers[:place]),
                other,
                where=f"{owners[0].place} and {store.place}",
                todo="encode the rows of the second with the first one's encoder and options "
                "(embedstore encode SOURCE NEW --append FIRST), or recode one of the features",
            )
        return joined_header(headers, self.plan)

    def progress(self, name: str) -> tuple[int, int]:
        """Units that have a record, and all units, over all parts."""
        found = [s.progress(name) for s in self._with(name)]
        return sum(done for done, _ in found), sum(units for _, units in found)

    def complete(self, name: str) -> bool:
        """Whether the feature is finished in every part."""
        return all(s.complete(name) for s in self._with(name))

    def feature_nbytes(self, name: str) -> int:
        """Bytes of a feature's finished units in all parts."""
        return sum(s.feature_nbytes(name) for s in self._with(name))

    def feature(self, name: str, *, verify: Verify = "first") -> Feature:
        """Open a feature that is complete in every part; raises as `header` and `Store.feature` do."""
        self.header(name)
        return JoinedFeature([s.feature(name, verify=verify) for s in self._with(name)], self.plan)

    def masks(self, rows: Sequence[int] | IntArray) -> list[ByteArray | None]:
        """Class ids `(h, w)` uint8 of each image row, none where a row has no mask."""
        return self._spread(rows, lambda store, mine: store.masks(mine))

    def thumbnails(self, rows: Sequence[int] | IntArray) -> list[bytes | None]:
        """Small JPEGs of image rows; none where their store keeps none."""
        return self._spread(rows, lambda store, mine: store.thumbnails(mine))

    def _spread(self, rows: Sequence[int] | IntArray, ask: Any) -> list[Any]:
        """Ask every store for its own rows once; answers in the order of `rows`."""
        wanted = np.asarray(rows, dtype=np.int64)
        if wanted.size and not 0 <= int(wanted.min()) <= int(wanted.max()) < self.plan.images:
            raise UsageError(
                "rows outside the store",
                found=f"{wanted.min()} to {wanted.max()}",
                allowed=f"0 to {self.plan.images - 1}",
            )
        owner = np.searchsorted(self._image_starts, wanted, side="right") - 1
        found: AnyArray = np.full(len(wanted), None, dtype=object)
        for number in np.unique(owner).tolist():
            mine = np.flatnonzero(owner == number)
            answers = ask(self._stores[number], wanted[mine] - self._image_starts[number])
            for place, answer in zip(mine.tolist(), answers, strict=True):
                found[place] = answer
        return list(found)


def open_joined(paths: Sequence[Path], opened: Sequence[Store]) -> JoinedStore:
    """Join stores that are open; the same folder twice is refused by its path rather than by its ids."""
    real = [p.resolve() for p in paths]
    for number, path in enumerate(real):
        if path in real[:number]:
            raise UsageError(
                "the same store twice", found=shown_place(paths[number]), allowed="each store once"
            )
    return JoinedStore(opened)

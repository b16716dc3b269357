"""`compact`: a new store without some rows, or several stores merged for good; no encoder is needed.

Stored values are copied bit for bit. Everything is built in a folder beside the new store, which gets its
name by one rename when all of it is there and has been compared with what it came from.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedstore.documents import Plan
from embedstore.errors import CorruptStoreError, IncompleteError, StoreError, UsageError
from embedstore.store import files, layout, tables
from embedstore.store.checks.tables import check_tables
from embedstore.store.choosing import choose_rows
from embedstore.store.compact_feature import FeatureCopy
from embedstore.store.create import create_store
from embedstore.store.ids import places_of, shown
from embedstore.store.joined import SIGN
from embedstore.store.reader import is_store, open_store
from embedstore.store.remote.plan import refuse_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from os import PathLike

    import numpy.typing as npt

    from embedstore.shapes import IntArray
    from embedstore.store.reader import Store

UNFINISHED = ".unfinished"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactReport:
    """What the new store holds, and what was left out of it."""

    path: str
    images: int
    texts: int
    dropped_images: int
    dropped_texts: int
    features: tuple[str, ...]
    nbytes: int

    def to_dict(self) -> dict[str, Any]:
        """A JSON value."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Rows of the old store that stay, ascending: images `(n,)` and texts `(m,)` int64."""

    images: IntArray
    texts: IntArray

    def of(self, table: str) -> IntArray:
        """The rows that stay of one table."""
        return self.images if table == "images" else self.texts


def compact_store(
    store: str | PathLike[str],
    to: str | PathLike[str],
    *,
    drop: Iterable[str] | str = (),
    features: Sequence[str] | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> CompactReport:
    """Copy `store` (or `A+B`) to the new store `to` without the rows whose ids are in `drop`.

    An id of an image drops the image with its texts, masks and thumbnails; an id of a text drops that text.
    As one word `drop` names a subset, or a file of ids. Subsets are not copied: their rows move.
    `features`: names of the features to take; none: all, which must be complete (`IncompleteError`) and, for
    `A+B`, be in every part (`StoreError`). Killed at any moment, `to` is not there; run again with the same
    arguments it goes on, and the result is the same to the byte; so it is where several processes do the same
    at once. `on_progress(feature, units done, units)`.
    Raises `UsageError` for ids that are not there, and where no row would be left.
    """
    refuse_url(to, what="compact --to", todo="make it here, then copy it there")
    opened, place = open_store(store), Path(to)
    _refuse_place(opened, place)
    kept = _kept_without(opened, drop) if isinstance(drop, str) else kept_rows(opened, list(drop))
    names = _names(opened, features, kept)
    plan = _plan(opened, kept)
    if not is_store(place):
        half = place.with_name(place.name + UNFINISHED)
        with files.alone(half):
            # Another process may have made it while this one waited, or just before.
            if not is_store(place):
                report = on_progress or (lambda *_: None)
                _build(opened, half, plan=plan, kept=kept, names=names, on_progress=report)
                files.flush_folder(half)
                files.rename(half, place)
            elif half.is_dir() and not any(half.iterdir()):
                half.rmdir()
        files.flush_folder(place.parent)
    made = open_store(place)
    if made.plan != plan or set(made.features()) != set(names):
        raise StoreError("another store is at this place", where=place, todo="choose another path for --to")
    for name in names:
        if not made.complete(name):
            done, units = made.progress(name)
            raise IncompleteError(
                f"feature {name!r} of the new store is not complete",
                where=place,
                found=f"{done} of {units} units",
                todo="remove the new store and run the same command again",
            )
    return CompactReport(
        path=str(place),
        images=plan.images,
        texts=plan.texts,
        dropped_images=opened.plan.images - plan.images,
        dropped_texts=opened.plan.texts - plan.texts,
        features=tuple(names),
        nbytes=made.nbytes,
    )


def _refuse_place(opened: Store, place: Path) -> None:
    real = place.resolve()
    for part in opened.parts:
        whole = part.path.resolve()
        if real == whole or whole in real.parents:
            raise UsageError("the new store cannot be the old one, nor lie in it", found=place)
    if place.exists() and not is_store(place):
        raise StoreError("there is something at this place already", where=place, todo="choose another path")


def kept_rows(store: Store, drop: Sequence[str]) -> Kept:
    """The rows that stay when these ids go. `UsageError` names ids that are not there."""
    images, texts = store.images(["id"])["id"], store.texts(["id"])["id"]
    image_places, text_places = places_of(images, drop), places_of(texts, drop)
    unknown = [drop[i] for i in np.flatnonzero((image_places < 0) & (text_places < 0))[:6]]
    both = [drop[i] for i in np.flatnonzero((image_places >= 0) & (text_places >= 0))[:6]]
    if unknown or both:
        raise UsageError(
            "ids to drop are not there" if unknown else "ids to drop name an image and a text",
            where=store.path,
            found=shown(unknown or both),
            allowed="ids of the images or of the texts table",
        )
    return _kept(store, image_places, text_places)


def _kept_without(store: Store, named: str) -> Kept:
    chosen, nothing = choose_rows(store, named), np.empty(0, np.int64)
    images = chosen.table == "images"
    return _kept(store, chosen.rows if images else nothing, nothing if images else chosen.rows)


def _kept(store: Store, images: IntArray, texts: IntArray) -> Kept:
    """What stays without these rows, those below 0 not counted."""
    image_stays = _without(store.plan.images, images)
    owner = store.texts(["image"])["image"].fill_null(-1).to_numpy()
    text_stays = _without(store.plan.texts, texts)
    owned = owner >= 0
    text_stays[owned] &= image_stays[owner[owned]]
    if not (image_stays.any() or text_stays.any()):
        raise UsageError("no row would be left", where=store.path)
    return Kept(images=np.flatnonzero(image_stays), texts=np.flatnonzero(text_stays))


def _without(count: int, places: IntArray) -> npt.NDArray[np.bool_]:
    stays = np.ones(count, dtype=bool)
    stays[places[places >= 0]] = False
    return stays


def _names(store: Store, features: Sequence[str] | None, kept: Kept) -> list[str]:
    """The features to copy, each complete and with a row left."""
    there = {name for part in store.parts for name in part.features()}
    names = sorted(there if features is None else set(features))
    for name in names:
        header = store.header(name)
        if not store.complete(name):
            done, units = store.progress(name)
            raise IncompleteError(
                f"feature {name!r} is not complete",
                where=store.path,
                found=f"{done} of {units} units",
                todo="finish it with the command that makes it, or take the others: --feature NAME",
            )
        if not len(kept.of(header.table)):
            raise UsageError(
                f"no row of the table {header.table!r} would be left",
                where=store.path,
                found=f"feature {name!r}",
                todo="take the other features: --feature NAME",
            )
    return names


def _plan(store: Store, kept: Kept) -> Plan:
    """The plan of the new store: a pure function of the old one's and of the rows that stay."""
    old = store.plan
    digest = hashlib.sha256(store.fingerprint.encode())
    for rows in (kept.images, kept.texts):
        digest.update(len(rows).to_bytes(8, "little"))
        digest.update(rows.astype("<i8").tobytes())
    texts = store.texts(["language", "role"]).take(kept.texts)
    return Plan(
        source={
            "kind": "compact",
            "of": SIGN.join(store.lineage),
            "dropped_images": old.images - len(kept.images),
            "dropped_texts": old.texts - len(kept.texts),
        },
        source_sha256=digest.hexdigest(),
        order=old.order,
        seed=old.seed,
        images=len(kept.images),
        texts=len(kept.texts),
        classes=old.classes,
        splits=_tally(store.images(["split"])["split"].take(kept.images)),
        languages=_tally(texts["language"]),
        roles=_tally(texts["role"]),
        masks=any(len(rows) for rows in _masks(store, kept)),
    )


def _tally(column: pa.ChunkedArray[pa.StringScalar]) -> dict[str, int]:
    found = {v["values"]: v["counts"] for v in pc.value_counts(column).to_pylist() if v["values"] is not None}
    return dict(sorted(found.items()))


def _texts(store: Store, kept: Kept) -> pa.Table:
    """The texts that stay, each with the new row of its image."""
    table = store.texts().take(kept.texts)
    at = table.column_names.index("image")
    owner = table["image"].to_numpy(zero_copy_only=False)
    lone = pc.is_null(table["image"]).to_numpy(zero_copy_only=False)
    moved = np.searchsorted(kept.images, np.where(lone, 0, owner).astype(np.int64))
    return table.set_column(at, table.schema.field(at), pa.array(moved, pa.int64(), mask=lone))


def _masks(store: Store, kept: Kept) -> Iterator[pa.Table]:
    """The masks that stay, part by part, their PNG bytes as they are."""
    first = 0
    for part in store.parts:
        for path in layout.parts(part.path, "masks"):
            table = tables.read_file(path, "masks")
            rows = table["image"].to_numpy() + first
            place = np.searchsorted(kept.images, rows)
            stays = (place < len(kept.images)) & (
                kept.images[np.minimum(place, len(kept.images) - 1)] == rows
            )
            yield pa.table([place[stays], table["png"].filter(stays)], schema=tables.MASKS)
        first += part.plan.images


def _build(
    store: Store,
    half: Path,
    *,
    plan: Plan,
    kept: Kept,
    names: Sequence[str],
    on_progress: Callable[[str, int, int], None],
) -> None:
    """Make, or go on making, the new store under another name, and compare it with the old one."""
    images, texts = store.images().take(kept.images), _texts(store, kept)
    try:
        create_store(half, plan, images=[images], texts=[texts], masks=_masks(store, kept))
    except StoreError as bad:
        raise type(bad)(
            bad.problem,
            where=half,
            found=bad.found,
            todo="this is what another compact left: remove the folder, or choose another path",
        ) from None
    for name in names:
        FeatureCopy(store, name, half, plan, kept.of(store.header(name).table)).make(on_progress)
    made = open_store(half)
    findings = list(check_tables(made))
    if findings or not (made.images().equals(images) and made.texts().equals(texts)):
        raise CorruptStoreError(
            "the copied tables do not agree with the old ones",
            where=half,
            found="; ".join(map(str, findings[:3])) or None,
            todo="embedstore verify STORE, then remove the folder and run the same command again",
        )

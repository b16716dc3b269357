"""The verb `apply`: a fitted head's joint embeddings of every row, stored as features of their own."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.documents import EncoderCard, Origin, QuarantinedRow, refuse_differences
from embedstore.encode.progress import Progress, log_event
from embedstore.encoders.cards import library_versions
from embedstore.encoders.device import device_kind, pick_device
from embedstore.errors import HeadError, MismatchError, UsageError
from embedstore.model import feature_of_card, head_card, load_head
from embedstore.store import (
    FeatureWriter,
    Store,
    Storing,
    begun_headers,
    layout,
    open_store,
    plan_feature,
    tables,
)
from embedstore.store.joined import JoinedStore
from embedstore.store.remote.plan import log_place, refuse_read_only
from embedstore.store.selection import readable

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike

    from embedstore.documents import ArrayName, FeatureHeader, FeatureManifest, Table
    from embedstore.model import FittedHead
    from embedstore.shapes import AnyArray
    from embedstore.store import Feature
    from embedstore.store.selection import Bools

POLICIES = ("float16", "float32")
TEXTS = "-texts"


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedFeature:
    """A feature of joint embeddings: of which store, from which feature, and how many rows are new."""

    store: str
    source: str
    manifest: FeatureManifest
    fresh: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready summary."""
        header = self.manifest.header
        return {
            "store": self.store.rpartition("/")[2],
            "feature": header.name,
            "table": header.table,
            "source": self.source,
            "rows": header.rows,
            "quarantined": self.manifest.quarantined,
            "width": header.card.width,
            "policy": header.policy,
            "nbytes": self.manifest.nbytes,
            "fresh_rows": self.fresh,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """One feature to make in one store."""

    store: Store
    source: Feature
    header: FeatureHeader


def apply_head(
    head_dir: str | PathLike[str],
    store: Store | str | PathLike[str],
    *,
    name: str,
    table: str = "both",
    image: str | None = None,
    text: str | None = None,
    policy: str = "float16",
    shard_rows: int | None = None,
    device: str = "auto",
    on_progress: Callable[[Progress], None] | None = None,
) -> tuple[AppliedFeature, ...]:
    """Store the head's unit vectors of every image as the feature `name`, of every text as `name-texts`.

    One table alone takes `name` itself; `A,B` names those of images and texts. 'both' is the tables of which
    the store has rows. `image` and `text` choose the cached features that are read; without them those of
    the head's cards are found. Of `A+B` each store gets the features of its own rows. Rows that could not
    be read stay quarantined. Killed and run again it makes only what is missing.
    `HeadError` for a feature of another encoder, `MismatchError` where a feature of that name is another
    one, `UsageError` for names and tables that cannot be meant.
    """
    if policy not in POLICIES:
        raise UsageError("unknown policy", where="--policy", found=policy, allowed=", ".join(POLICIES))
    head = load_head(head_dir, device=pick_device(device))
    opened = store if isinstance(store, Store) else open_store(store)
    parts = opened.parts if isinstance(opened, JoinedStore) else (opened,)
    wanted = _tables(opened, table)
    names = feature_names(name, wanted)
    for each in names.values():
        layout.feature(opened.path, each)
    chosen: dict[Table, str | None] = {"images": image, "texts": text}
    tasks = []
    for part in parts:
        refuse_read_only(part.place, what="apply")
        for each in wanted:
            if part.plan.images if each == "images" else part.plan.texts:
                source = _source(part, head, each, chosen[each])
                header = plan_feature(
                    name=names[each],
                    plan=part.plan,
                    card=_card(head, source),
                    policy=policy,
                    shard_rows=shard_rows,
                    origin=Origin(feature=source.name, manifest_fingerprint=source.manifest.fingerprint),
                )
                _refuse_other(part, header)
                tasks.append(_Task(store=part, source=source, header=header))
    return tuple(_make(task, head, on_progress or (lambda _: None)) for task in tasks)


def feature_names(name: str, wanted: tuple[Table, ...]) -> dict[Table, str]:
    """The feature of each table: see `apply_head`."""
    given = name.split(",")
    if len(given) == 1:
        given = [name, name + TEXTS] if len(wanted) == 2 else [name]
    if len(given) != len(wanted) or len(set(given)) < len(given) or not all(given):
        raise UsageError(
            "names and tables do not fit",
            where="--as",
            found=f"{name!r} for {' and '.join(wanted)}",
            allowed="one name, or one for each table with a comma between them",
        )
    return dict(zip(wanted, given, strict=True))


def _tables(store: Store, table: str) -> tuple[Table, ...]:
    rows: dict[Table, int] = {"images": store.plan.images, "texts": store.plan.texts}
    asked: tuple[Table, ...] = ("images", "texts")
    if table != "both":
        asked = tuple(each for each in asked if each == table)
        if not asked:
            raise UsageError("unknown table", where="--table", found=table, allowed="images, texts, both")
    found = tuple(each for each in asked if rows[each])
    if not found:
        raise UsageError(f"the store has no {' and no '.join(asked)}", where=store.path.name)
    return found


def _source(store: Store, head: FittedHead, table: Table, name: str | None) -> Feature:
    config = head.config
    own, card, shrink = (
        (config.image_feature, config.image_card, config.image_shrink)
        if table == "images"
        else (config.text_feature, config.text_card, None)
    )
    found = store[name] if name is not None else feature_of_card(store, own, card, shrink=shrink)
    if found.table != table:
        raise HeadError(
            f"{found.name!r} is a feature of {found.table}", where=store.path.name, allowed=f"one of {table}"
        )
    (head.check_image if table == "images" else head.check_text)(found)
    return found


def _card(head: FittedHead, source: Feature) -> EncoderCard:
    config, encoder = head.config, source.card
    return EncoderCard(
        modality=encoder.modality,
        library="embedstore",
        architecture=config.head,
        model=encoder.model,
        weights_sha256=config.weights_sha256 or head.sha256,
        layer=None,
        final_norm=None,
        width=head.width,
        pooled_width=head.width,
        pooling="joint",
        head=head_card(head, source.table),
        view=encoder.view,
        device_kind=device_kind(head.device),
        versions=library_versions("embedstore", "torch"),
    )


def _refuse_other(store: Store, planned: FeatureHeader) -> None:
    """Before anything is written: a feature of this name must be of this very head and source."""
    begun = begun_headers(store.path).get(planned.name)
    if begun is not None and begun.card.head != planned.card.head:
        card = begun.card
        raise MismatchError(
            "a feature of this name is there already",
            where=planned.name,
            found=f"made by {card.model}" if card.head is None else f"of the head {card.head.sha256[:16]}",
            todo="give the new feature another name: --as NAME",
        )
    if begun is not None:
        refuse_differences(
            begun,
            planned,
            what="the feature of this name",
            where=planned.name,
            todo="give the new feature another name: --as NAME",
        )


def _make(task: _Task, head: FittedHead, report: Callable[[Progress], None]) -> AppliedFeature:
    started, header, source = time.monotonic(), task.header, task.source
    lines = tables.read_file(layout.of_feature(source.path, layout.QUARANTINE), "quarantine").to_pylist()
    quarantine = [QuarantinedRow(**line) for line in lines]
    good = readable(source)
    quarantine += _without_tokens(source, good, {line.row for line in quarantine})
    quarantine.sort(key=lambda line: line.row)
    writer = FeatureWriter.open(task.store.path, header)
    units = writer.missing_units()
    done = header.rows - sum(len(header.unit_rows(unit)) for unit in units)
    fresh = 0
    with Storing(writer) as storing:
        for unit in units:
            rows = header.unit_rows(unit)
            bad = [row for row in quarantine if row.row in rows]
            storing.put(unit, _unit(head, source, rows, good), quarantined=bad)
            fresh += len(rows)
            report(
                Progress(
                    feature=header.name,
                    table=header.table,
                    done=done + fresh,
                    total=header.rows,
                    fresh=fresh,
                    seconds=time.monotonic() - started,
                    device=head.device.type,
                )
            )
    manifest, seconds = writer.finish(), time.monotonic() - started
    if units:
        log_event(
            log_place(task.store.place),
            "applied",
            feature=header.name,
            source=source.name,
            rows=fresh,
            seconds=round(seconds, 3),
        )
    return AppliedFeature(
        store=task.store.place, source=source.name, manifest=manifest, fresh=fresh, seconds=seconds
    )


def _without_tokens(source: Feature, good: Bools, known: set[int]) -> list[QuarantinedRow]:
    """Texts of no tokens: a head makes nothing of them."""
    empty = [int(row) for row in np.flatnonzero(~good) if int(row) not in known]
    ids = source.ids() if empty else []
    return [QuarantinedRow(row=row, id=str(ids[row]), reason="no tokens") for row in empty]


def _unit(head: FittedHead, source: Feature, rows: range, good: Bools) -> dict[ArrayName, AnyArray]:
    """Batches begin at the unit, so its bytes are its own rows'."""
    numbers = np.arange(rows.start, rows.stop)
    numbers = numbers[good[numbers]]
    vectors = np.zeros((len(rows), head.width), np.float32)
    if numbers.size:
        embed = head.embed_images if source.table == "images" else head.embed_texts
        vectors[numbers - rows.start] = embed(source, numbers)
    return {"pooled": vectors}

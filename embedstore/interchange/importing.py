"""Import: somebody else's embeddings become a feature of a store, rows matched by id."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.documents import IMPORTED_MEAN, EncoderCard
from embedstore.errors import UsageError
from embedstore.interchange.examine import examine
from embedstore.interchange.ids import match
from embedstore.interchange.opening import Modality, Opened, Reading, captioned, open_import
from embedstore.interchange.planning import plan_imported
from embedstore.store import FeatureWriter, Storing, layout, open_store, plan_feature
from embedstore.store.joined import split_joined
from embedstore.store.remote.cache_folder import is_mirrored
from embedstore.store.remote.mirror import shown
from embedstore.store.remote.plan import publish_plan, written_at

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from os import PathLike

    import pyarrow as pa

    from embedstore.documents import ArrayName, FeatureHeader
    from embedstore.interchange.examine import Examined
    from embedstore.interchange.values import Values
    from embedstore.shapes import AnyArray, FloatArray, IntArray

POLICIES = ("float16", "float32")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """What an import must be told, and what it may be told."""

    model: str
    """Which model made the numbers, in the user's words; never a path."""
    modality: Modality = "image"
    ids: str | None = None
    key: str | None = None
    lengths: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    id_prefix: str | None = None
    weights_sha256: str | None = None
    """Of the model's weights, where the user knows it; none: the hash of the numbers stands in its place."""
    pooling: str | None = None
    """What the pooled embedding is; none: unknown."""
    language: str = "en"
    """Of captions that name none, in a new store."""
    policy: str = "float16"
    shard_rows: int | None = None

    def __post_init__(self) -> None:
        for name, found, allowed in (
            ("modality", self.modality, ("image", "text")),
            ("policy", self.policy, POLICIES),
        ):
            if found not in allowed:
                raise UsageError(
                    f"unknown {name}", where=f"--{name}", found=found, allowed=", ".join(allowed)
                )
        if not self.model or self.model[0] in "/~." or "\\" in self.model:
            raise UsageError(
                "a model is named by its id, never by a path",
                where="--model",
                found=self.model,
                allowed="for example openai/clip-vit-base-patch32",
            )
        sha = self.weights_sha256
        if sha is not None and (len(sha) != 64 or set(sha) - set("0123456789abcdef")):
            raise UsageError("not a sha256", where="--weights-sha256", found=sha, allowed="64 digits 0-9a-f")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSummary:
    """What an import made. `norms`: least and largest L2 norm of a row, none where there were tokens."""

    store: Path | str
    feature: str
    table: str
    rows: int
    arrays: tuple[str, ...]
    nbytes: int
    new_store: bool
    weights_sha256: str
    norms: tuple[float, float] | None
    left_out: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """A JSON value."""
        return asdict(self) | {"store": Path(self.store).name}


def import_feature(
    source: str,
    store: str | PathLike[str],
    *,
    name: str,
    options: ImportOptions,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> ImportSummary:
    """Import `KIND:PATH` as the feature `name`; makes the store where there is none.

    In a store that exists every id of its table must stand in the file once, and no other may: rows are
    matched by id, whatever their order. Ids, shapes and values are checked before anything is written; the
    numbers are read in blocks, never whole. An import that was stopped goes on when it is run again.
    `on_progress(stage, done, total)` counts rows, stages "check" and "store".

    Raises `UsageError` for what cannot be meant, `SourceError` for a file that cannot be taken, and
    `MismatchError` for ids or a card that differ from the store's.
    """
    layout.feature(Path(store), name)
    _refuse_joined(store)
    opened = open_import(
        source,
        Reading(
            modality=options.modality,
            ids=options.ids,
            key=options.key,
            lengths=options.lengths,
            columns=options.columns,
            id_prefix=options.id_prefix,
        ),
    )
    try:
        with written_at(store, what="import") as place:
            return _store(opened, place, name, options, on_progress or (lambda *_: None))
    finally:
        opened.values.close()


def _store(
    opened: Opened, store: Path, name: str, options: ImportOptions, report: Callable[[str, int, int], None]
) -> ImportSummary:
    texts = captioned(opened)
    planned = None
    if layout.plan(store).is_file():
        wanted = _stored_ids(store, options.modality)
        rows = texts.rows[match(wanted, texts.facts, where=texts.name, store=store.name)]
    else:
        planned = plan_imported(opened, language=options.language)
        rows = texts.rows
    store.absolute().parent.mkdir(parents=True, exist_ok=True)
    checked = examine(opened, store.absolute().parent, lambda done, total: report("check", done, total))
    made = publish_plan(store, made=planned is not None and planned.write(store))
    header = plan_feature(
        name=name,
        plan=open_store(store).plan,
        card=_card(checked, options),
        policy=options.policy,
        shard_rows=options.shard_rows,
        imported_tokens=checked.values.shape[1] if len(checked.values.shape) == 3 else 0,
    )
    writer = FeatureWriter.open(store, header)
    with Storing(writer) as storing:
        for unit in writer.missing_units():
            part = header.unit_rows(unit)
            storing.put(unit, _unit(header, checked.values, rows[part.start : part.stop]))
            report("store", part.stop, header.rows)
    manifest = writer.finish()
    return ImportSummary(
        store=shown(store) if is_mirrored(store) else store,
        feature=name,
        table=header.table,
        rows=header.rows,
        arrays=tuple(a.name for a in header.arrays),
        nbytes=manifest.nbytes,
        new_store=made,
        weights_sha256=header.card.weights_sha256,
        norms=checked.norms,
        left_out=texts.left_out,
    )


def _refuse_joined(store: str | PathLike[str]) -> None:
    parts = split_joined(str(store)) if "+" in str(store) else None
    if parts is not None and len(parts) > 1:
        raise UsageError(
            "an import goes into one store",
            found=", ".join(part.name for part in parts),
            todo="import the rows of each part into its store",
        )


def _stored_ids(store: Path, modality: Modality) -> pa.ChunkedArray:
    opened = open_store(store)
    table = opened.images(["id"]) if modality == "image" else opened.texts(["id"])
    if not len(table):
        raise UsageError(
            f"the store has no {modality}s for this feature",
            where=store.name,
            todo="give the other --modality",
        )
    return table["id"]


def _card(checked: Examined, options: ImportOptions) -> EncoderCard:
    """What is known: the numbers' own shape and hash, and what the user says; the rest is unknown."""
    tokens = len(checked.values.shape) == 3
    return EncoderCard(
        modality=options.modality,
        library="imported",
        architecture="unknown",
        model=options.model,
        weights_sha256=options.weights_sha256 or checked.sha256,
        layer=None,
        final_norm=None,
        width=checked.values.shape[-1],
        pooled_width=checked.values.shape[-1],
        pooling=IMPORTED_MEAN if tokens else options.pooling or "unknown",
        compute_dtype="unknown",
        device_kind="unknown",
        versions={},
    )


def _unit(header: FeatureHeader, values: Values, rows: IntArray) -> dict[ArrayName, AnyArray]:
    """The arrays of one unit from rows of the file."""
    block = values.gather(rows)
    wide = block if header.policy == "float16" else block.astype(np.float32, copy=False)
    if wide.ndim == 2:
        return {"pooled": wide}
    if values.lengths is None:
        return {"tokens": wide, "pooled": _mean(wide, None)}
    lengths = values.lengths[rows]
    real = np.arange(wide.shape[1]) < lengths[:, None]
    return {
        "tokens": wide[real],
        "lengths": lengths,
        "pooled": _mean(np.where(real[..., None], wide, 0), lengths),
    }


def _mean(tokens: FloatArray, lengths: IntArray | None) -> FloatArray:
    """Mean over the tokens of each row, float32; padding must be zero."""
    if lengths is None:
        mean: FloatArray = tokens.mean(axis=1, dtype=np.float32)
        return mean
    total: FloatArray = tokens.sum(axis=1, dtype=np.float32)
    return np.asarray(total / lengths[:, None], np.float32)

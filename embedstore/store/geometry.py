"""From a card and a plan to the arrays of a feature: shapes, shard rows, inner chunks, `zarr.json`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.documents import FORMAT_VERSION, ArraySpec, FeatureHeader
from embedstore.errors import CorruptStoreError, StorageValueError
from embedstore.store import layout
from embedstore.store.codecs import POLICIES

if TYPE_CHECKING:
    from embedstore.documents import EncoderCard, Plan, PolicyName, StoredType
    from embedstore.shapes import AnyArray

SHARD_BYTES = 512 << 20
CHUNK_BYTES = 512 << 10
UNITS_WANTED = 64
LEAST_SHARD_ROWS = 32
NOT_THERE = 255
_AXES: dict[str, dict[str, tuple[str, ...]]] = {
    "tokens": {"images": ("image", "patch", "width"), "texts": ("place", "width")},
    "prefix": {"images": ("image", "prefix", "width")},
    "pooled": {"images": ("image", "width"), "texts": ("text", "width")},
    "lengths": {"texts": ("text",)},
    "status": {"images": ("image",), "texts": ("text",)},
}


def power_of_two(most: int) -> int:
    """The largest power of two that is at most `most`, at least 1."""
    return 1 << (max(1, most).bit_length() - 1)


def default_shard_rows(*, rows: int, row_bytes: int) -> int:
    """Rows of one unit: tokens of at most 512 MiB, some 64 units a feature, at least 32 rows."""
    spread = power_of_two(max(LEAST_SHARD_ROWS, -(-rows // UNITS_WANTED)))
    return min(spread, power_of_two(SHARD_BYTES // max(1, row_bytes)))


def chunk_places(*, shard: int, place_bytes: int) -> int:
    """Places of one inner chunk: a power of two that divides the shard, at most 512 KiB, or one place."""
    return min(power_of_two(CHUNK_BYTES // max(1, place_bytes)), shard & -shard)


def plan_feature(
    *,
    name: str,
    plan: Plan,
    card: EncoderCard,
    policy: PolicyName = "float16",
    shard_rows: int | None = None,
    thumbnails: int = 0,
    imported_tokens: int = 0,
) -> FeatureHeader:
    """The header of a new feature: what is decided before its first unit is written.

    `shard_rows` must be a power of two; none takes `default_shard_rows`. `imported_tokens`: tokens of a row
    where the card is of an imported feature (texts: at most), 0 for pooled embeddings alone. Raises
    `StorageValueError`.
    """
    image = card.modality == "image"
    rows = plan.images if image else plan.texts
    tokens = _tokens(card, imported_tokens)
    item = POLICIES[policy].dtype.itemsize
    row_bytes = (tokens * card.width or card.pooled_width) * item
    chosen = shard_rows or default_shard_rows(rows=rows, row_bytes=row_bytes)
    if chosen != power_of_two(chosen):
        raise StorageValueError(
            "bad number of rows in a shard",
            found=chosen,
            allowed=f"a power of two, e.g. {power_of_two(chosen)} or {2 * power_of_two(chosen)}",
        )
    return FeatureHeader(
        name=name,
        table="images" if image else "texts",
        rows=rows,
        shard_rows=chosen,
        units=-(-rows // chosen),
        max_tokens=_max_tokens(card, tokens),
        policy=policy,
        thumbnails=thumbnails if image else 0,
        card=card,
        arrays=_arrays(card, tokens, rows=rows, shard_rows=chosen, policy=policy),
        plan_fingerprint=plan.fingerprint,
    )


def _tokens(card: EncoderCard, imported: int) -> int:
    if card.library == "imported":
        return imported
    if card.modality == "image" and card.grid is not None:
        return card.grid[0] * card.grid[1]
    if card.modality == "text" and card.tokenizer is not None:
        return card.tokenizer.max_length
    raise StorageValueError("the encoder's card does not say how many tokens a row has", where=card.model)


def _max_tokens(card: EncoderCard, tokens: int) -> int:
    return tokens if card.modality == "text" or card.library == "imported" else 0


def _arrays(
    card: EncoderCard, tokens: int, *, rows: int, shard_rows: int, policy: PolicyName
) -> tuple[ArraySpec, ...]:
    width = card.width

    def spec(name: Any, shape: tuple[int, ...], dtype: StoredType, shard: int = shard_rows) -> ArraySpec:
        place = int(np.prod(shape[1:], dtype=np.int64)) * np.dtype(dtype).itemsize
        return ArraySpec(
            name=name,
            shape=shape,
            dtype=dtype,
            shard=shard,
            chunk=chunk_places(shard=shard, place_bytes=place),
        )

    pooled = spec("pooled", (rows, card.pooled_width), policy)
    status = spec("status", (rows,), "uint8")
    if not tokens:
        return (pooled, status)
    if card.modality == "image":
        prefix = [spec("prefix", (rows, card.prefix, width), policy)] if card.prefix else []
        return (spec("tokens", (rows, tokens, width), policy), *prefix, pooled, status)
    places = shard_rows * tokens
    packed = spec("tokens", (-(-rows // shard_rows) * places, width), policy, shard=places)
    return (packed, spec("lengths", (rows,), "int32"), pooled, status)


def stored_dtype(spec: ArraySpec) -> np.dtype[Any]:
    """The little-endian dtype of an array."""
    return np.dtype(spec.dtype).newbyteorder("<")


def fill_value(spec: ArraySpec) -> AnyArray:
    """What a place holds that is not there: NaN, 0, or 255 for status; a 0-d array."""
    value = np.nan if spec.dtype.startswith("float") else NOT_THERE if spec.name == "status" else 0
    return np.array(value, dtype=stored_dtype(spec))


def unit_shape(header: FeatureHeader, spec: ArraySpec, unit: int, *, tokens: int = 0) -> tuple[int, ...]:
    """Shape of one array of one unit; packed text tokens have `tokens` places."""
    packed = spec.name == "tokens" and header.table == "texts"
    return (tokens if packed else len(header.unit_rows(unit)), *spec.shape[1:])


def unit_paths(header: FeatureHeader, unit: int) -> tuple[str, ...]:
    """Every file of a unit relative to the feature, in the order of its record."""
    shards = [layout.shard(a.name, unit, len(a.shape)) for a in header.arrays]
    return (*shards, layout.thumbnails(unit)) if header.thumbnails else tuple(shards)


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def group_json(attributes: dict[str, Any] | None = None) -> bytes:
    """`zarr.json` of a group."""
    return _json({"zarr_format": 3, "node_type": "group", "attributes": attributes or {}})


def array_json(header: FeatureHeader, spec: ArraySpec) -> bytes:
    """`zarr.json` of an array: regular shards, no compression, a crc32c for every inner chunk."""
    rest = list(spec.shape[1:])
    endian = {"name": "bytes", "configuration": {"endian": "little"}}
    crc = {"name": "crc32c"}
    sharding = {
        "chunk_shape": [spec.chunk, *rest],
        "codecs": [{"name": "bytes"} if spec.dtype == "uint8" else endian, crc],
        "index_codecs": [endian, crc],
        "index_location": "end",
    }
    return _json(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(spec.shape),
            "data_type": spec.dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [spec.shard, *rest]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": "NaN" if spec.dtype.startswith("float") else int(fill_value(spec)),
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "attributes": {},
            "dimension_names": list(_AXES[spec.name][header.table]),
            "storage_transformers": [],
        }
    )


def root_files() -> dict[str, bytes]:
    """Zarr metadata of a store's own groups: path relative to the store, bytes."""
    root = group_json({"embedstore": {"format_version": FORMAT_VERSION}})
    return {layout.ZARR: root, f"{layout.FEATURES}/{layout.ZARR}": group_json()}


def feature_files(header: FeatureHeader) -> dict[str, bytes]:
    """Zarr metadata of a feature: path relative to the feature, bytes."""
    arrays = {f"{a.name}/{layout.ZARR}": array_json(header, a) for a in header.arrays}
    return {layout.ZARR: group_json(), **arrays}


def check_header(header: FeatureHeader, plan: Plan) -> None:
    """Refuse a header whose arrays do not follow from its card and plan; `CorruptStoreError`."""
    tokens = _tokens(header.card, header.max_tokens)
    wanted = _arrays(
        header.card, tokens, rows=header.rows, shard_rows=header.shard_rows, policy=header.policy
    )
    image = header.card.modality == "image"
    facts: dict[str, tuple[object, object]] = {
        "plan_fingerprint": (header.plan_fingerprint, plan.fingerprint),
        "table": (header.table, "images" if image else "texts"),
        "rows": (header.rows, plan.images if image else plan.texts),
        "units": (header.units, -(-header.rows // header.shard_rows)),
        "max_tokens": (header.max_tokens, _max_tokens(header.card, tokens)),
        "arrays": ([_outer(a) for a in header.arrays], [_outer(a) for a in wanted]),
        "chunks": ([a.shard % a.chunk for a in header.arrays], [0] * len(header.arrays)),
    }
    for field, (found, allowed) in facts.items():
        if found != allowed:
            raise CorruptStoreError(
                f"the header's {field} do not follow from its plan and card",
                where=header.name,
                found=found,
                allowed=allowed,
            )


def _outer(spec: ArraySpec) -> tuple[object, ...]:
    return spec.name, spec.shape, spec.dtype, spec.shard

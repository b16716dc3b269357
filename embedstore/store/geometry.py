"""From a card and a plan to the arrays of a feature: shapes, shard rows, inner chunks, `zarr.json`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.documents import FORMAT_VERSION, ArraySpec, FeatureHeader
from embedstore.errors import CorruptStoreError, StorageValueError, UsageError
from embedstore.policies import parse_policy
from embedstore.store import layout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedstore.documents import EncoderCard, Origin, Plan, PolicyName, StoredType
    from embedstore.policies import Number, Policy
    from embedstore.shapes import AnyArray

SHARD_BYTES = 512 << 20
CHUNK_BYTES = 128 << 10
UNITS_WANTED = 64
LEAST_SHARD_ROWS = 32
NOT_THERE = 255
STORED_TYPES: dict[Number, StoredType] = {
    "float32": "float32",
    "float16": "float16",
    "bfloat16": "uint16",
    "int8": "int8",
    "fp8": "uint8",
}
# A NaN where the type has one (bfloat16, e4m3), or a code that is never written.
FILL_VALUES: dict[StoredType, int] = {"int32": 0, "uint16": 0x7FC0, "uint8": 0x7F, "int8": -128}
_AXES: dict[str, dict[str, tuple[str, ...]]] = {
    "tokens": {"images": ("image", "patch", "width"), "texts": ("place", "width")},
    "scales": {"images": ("image", "patch"), "texts": ("place",)},
    "weights": {"images": ("image", "patch")},
    "prefix": {"images": ("image", "prefix", "width")},
    "prefix_scales": {"images": ("image", "prefix")},
    "pooled": {"images": ("image", "width"), "texts": ("text", "width")},
    "pooled_scales": {"images": ("image",), "texts": ("text",)},
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


def shared_shard_rows(headers: Sequence[FeatureHeader]) -> int:
    """Rows of one unit of features that are made together: their tokens are in memory at the same time."""
    row_bytes = sum(
        max(1, h.max_tokens) * int(np.prod(h.arrays[0].shape[1:])) * np.dtype(h.arrays[0].dtype).itemsize
        for h in headers
    )
    return default_shard_rows(rows=headers[0].rows, row_bytes=row_bytes)


def chunk_places(*, shard: int, place_bytes: int) -> int:
    """Places of one inner chunk: a power of two that divides the shard, at most 128 KiB, or one place."""
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
    calibration_sha256: str | None = None,
    origin: Origin | None = None,
) -> FeatureHeader:
    """The header of a new feature: what is decided before its first unit is written.

    `shard_rows` must be a power of two; none takes `default_shard_rows`. `imported_tokens`: tokens of a row
    where the card is of an imported feature (texts: at most), 0 for pooled embeddings alone. A text feature
    takes the number format of a policy that shrinks. Raises `StorageValueError`, and `UsageError` for a
    policy that does not fit the card.
    """
    image = card.modality == "image"
    rows = plan.images if image else plan.texts
    tokens = _tokens(card, imported_tokens)
    kept = effective_policy(policy, card)
    one_row = _arrays(card, tokens, rows=1, shard_rows=1, policy=kept)
    chosen = shard_rows or default_shard_rows(rows=rows, row_bytes=_row_bytes(one_row))
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
        policy=kept.name,
        thumbnails=thumbnails if image else 0,
        card=card,
        arrays=_arrays(card, tokens, rows=rows, shard_rows=chosen, policy=kept),
        plan_fingerprint=plan.fingerprint,
        calibration_sha256=calibration_sha256,
        origin=origin,
    )


def _tokens(card: EncoderCard, imported: int) -> int:
    if not card.runs_an_encoder:
        return imported
    if card.modality == "image" and card.grid is not None:
        return card.grid[0] * card.grid[1]
    if card.modality == "text" and card.tokenizer is not None:
        return card.tokenizer.max_length
    raise StorageValueError("the encoder's card does not say how many tokens a row has", where=card.model)


def _max_tokens(card: EncoderCard, tokens: int) -> int:
    return tokens if card.modality == "text" or not card.runs_an_encoder else 0


def _arrays(
    card: EncoderCard, tokens: int, *, rows: int, shard_rows: int, policy: Policy
) -> tuple[ArraySpec, ...]:
    dtype = STORED_TYPES[policy.number]

    def spec(name: Any, shape: tuple[int, ...], dtype: StoredType, shard: int = shard_rows) -> ArraySpec:
        place = int(np.prod(shape[1:], dtype=np.int64)) * np.dtype(dtype).itemsize
        return ArraySpec(
            name=name,
            shape=shape,
            dtype=dtype,
            shard=shard,
            chunk=chunk_places(shard=shard, place_bytes=place),
        )

    def numbers(name: str, scales: str, shape: tuple[int, ...], shard: int = shard_rows) -> list[ArraySpec]:
        """An array of the policy's numbers, and a scale for each of their vectors where they have one."""
        scale = [spec(scales, shape[:-1], "float32", shard)] if policy.scaled else []
        return [spec(name, shape, dtype, shard), *scale]

    pooled = numbers("pooled", "pooled_scales", (rows, card.pooled_width))
    status = spec("status", (rows,), "uint8")
    if not tokens:
        return (*pooled, status)
    if card.modality == "text":
        places = shard_rows * tokens
        shape = (-(-rows // shard_rows) * places, card.width)
        packed = numbers("tokens", "scales", shape, places)
        return (*packed, spec("lengths", (rows,), "int32"), *pooled, status)
    kept = (rows, policy.tokens(tokens, card.grid))
    if policy.pq:
        patches = [spec("tokens", (*kept, policy.pq), "uint8")]
    else:
        patches = numbers("tokens", "scales", (*kept, policy.pca or card.width))
    weights = [spec("weights", kept, "float32")] if policy.weighted(card.grid) else []
    ahead = (rows, card.prefix, card.width)
    prefix = numbers("prefix", "prefix_scales", ahead) if card.prefix else []
    return (*patches, *weights, *prefix, *pooled, status)


def effective_policy(name: PolicyName, card: EncoderCard) -> Policy:
    """What a policy comes to for an encoder: text is never shrunk. `UsageError` where it does not fit."""
    policy = parse_policy(name)
    if card.modality == "text":
        return policy.number_only
    if policy.pca > card.width:
        raise UsageError(
            f"{policy.name} of tokens {card.width} wide", where="policy", allowed=f"pca-D, D to {card.width}"
        )
    width = policy.pca or card.width
    if policy.pq and width % policy.pq:
        divisors = [m for m in range(1, width + 1) if width % m == 0]
        raise UsageError(
            f"{policy.name} of tokens {width} wide",
            where="policy",
            allowed=f"pq-M, M one of {', '.join(map(str, divisors))}",
        )
    return policy


def _row_bytes(arrays: tuple[ArraySpec, ...]) -> int:
    """Stored bytes of the tokens (texts: at most) of a feature of one row, or of what it has without any."""
    return int(np.prod(arrays[0].shape, dtype=np.int64)) * np.dtype(arrays[0].dtype).itemsize


def stored_dtype(spec: ArraySpec) -> np.dtype[Any]:
    """The little-endian dtype of an array."""
    return np.dtype(spec.dtype).newbyteorder("<")


def fill_value(spec: ArraySpec) -> AnyArray:
    """What a place holds that is not there: NaN or what stands for it, 255 for status; a 0-d array."""
    value = NOT_THERE if spec.name == "status" else FILL_VALUES.get(spec.dtype, np.nan)
    return np.array(value, dtype=stored_dtype(spec))


def is_packed(header: FeatureHeader, spec: ArraySpec) -> bool:
    """Whether the first axis of an array is token places of texts, not rows."""
    return header.table == "texts" and spec.name in ("tokens", "scales")


def unit_shape(header: FeatureHeader, spec: ArraySpec, unit: int, *, tokens: int = 0) -> tuple[int, ...]:
    """Shape of one array of one unit; packed text tokens have `tokens` places."""
    packed = is_packed(header, spec)
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
        "codecs": [endian if np.dtype(spec.dtype).itemsize > 1 else {"name": "bytes"}, crc],
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
            "dimension_names": _dimension_names(header, spec),
            "storage_transformers": [],
        }
    )


def _dimension_names(header: FeatureHeader, spec: ArraySpec) -> list[str]:
    """The last axis of shrunk tokens counts components or codes; merged tokens are no patches."""
    policy = parse_policy(header.policy)
    names = list(_AXES[spec.name][header.table])
    if "patch" in names and (policy.merge or policy.mean):
        names[names.index("patch")] = "token"
    if spec.name == "tokens" and (policy.pca or policy.pq):
        names[-1] = "code" if policy.pq else "component"
    return names


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
    try:
        policy = effective_policy(header.policy, header.card)
        wanted = _arrays(header.card, tokens, rows=header.rows, shard_rows=header.shard_rows, policy=policy)
    except UsageError as bad:
        raise CorruptStoreError(bad.problem, where=header.name, allowed=bad.allowed) from None
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

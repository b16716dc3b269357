"""What a policy learns before it can store anything: channel statistics, a basis, a codebook.

It is learnt from rows that plan and policy fix, whether an encoder or a stored feature gives their values,
and committed as one safetensors file in the feature's folder before the header, which holds its sha256:
whoever goes on with the feature uses what is there.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from embedstore.errors import CorruptStoreError, MismatchError, StorageValueError
from embedstore.store import files, layout
from embedstore.store.coding import linear, scaled, shrink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from embedstore.documents import ArrayName, EncoderCard, FeatureHeader, Plan
    from embedstore.policies import Policy
    from embedstore.shapes import AnyArray, Float32Array, IntArray

SAMPLE_TOKENS = 1 << 16
LEAST_ROWS, MOST_ROWS = 256, 4096
MOST_BYTES = 1 << 30
_STREAM = 0x63616C6962
_IDENTITY = "embedstore"


@dataclass(frozen=True, slots=True)
class Calibration:
    """The learnt arrays by name, and the sha256 of their file.

    `tokens.mean`, `tokens.deviation` `(d,)` of what is stored of a token, `prefix.*` `(p, d)`, `pooled.*`
    `(w,)` for int8; `pca.mean (d,)`, `pca.basis (D, d)`; `pq.codebook (M, 256, …)`. All float32.
    """

    arrays: Mapping[str, Float32Array]
    sha256: str


def sample_rows(plan: Plan, *, rows: int, tokens: int) -> IntArray:
    """Rows of a table, ascending, from which a policy that keeps `tokens` tokens a row learns."""
    wanted = min(MOST_ROWS, max(LEAST_ROWS, -(-SAMPLE_TOKENS // max(1, tokens))))
    random = np.random.Generator(np.random.Philox(key=[plan.seed, _STREAM]))
    drawn: IntArray = np.sort(random.choice(rows, min(rows, wanted), replace=False, shuffle=False))
    return drawn


def planned_tokens(header: FeatureHeader, policy: Policy) -> int:
    """Tokens that a row is left with; of a text, a quarter of its places is taken for the usual."""
    if header.array("tokens") is None:
        return 1
    if header.table == "texts":
        return max(1, header.max_tokens // 4)
    grid = header.card.grid
    # Only an imported feature says how many there are; a grid is known of all others.
    return policy.tokens(header.max_tokens or (grid[0] * grid[1] if grid else 1), grid)


def refuse_few_tokens(policy: Policy, tokens: int) -> None:
    """`StorageValueError` where a sample of so many tokens is too small for a basis or a codebook."""
    needed = max(policy.pca, linear.CODES if policy.pq else 0)
    if tokens < needed:
        raise StorageValueError(
            f"too few tokens to learn {policy.name} from",
            found=tokens,
            allowed=f"{needed} or more",
            todo="take more rows, or a policy that learns less, e.g. int8",
        )


def learn_from(
    policy: Policy, slices: Iterable[Mapping[ArrayName, AnyArray]], *, grid: tuple[int, int] | None
) -> dict[str, Float32Array]:
    """Learn from good rows in slices, plain float32, as a coder takes them: `tokens (b, t, d)` and so on.

    Raises `StorageValueError` as `learn` does.
    """
    parts: dict[str, list[AnyArray]] = {}
    for some in slices:
        for name, values in some.items():
            if name != "lengths":
                parts.setdefault(name, []).append(_places(policy, name, values, grid))
    if not parts:
        raise StorageValueError("no good rows to learn the policy from", found=policy.name)
    return learn(policy, {name: np.concatenate(found) for name, found in parts.items()})


def _places(policy: Policy, name: str, values: AnyArray, grid: tuple[int, int] | None) -> AnyArray:
    """Tokens of all rows count alike, pooled and merged; prefix tokens are told apart by their place."""
    if name != "tokens":
        return values
    left = shrink.shrink_tokens(policy, values, grid)[0] if policy.shrinks else values
    return left.reshape(-1, left.shape[-1])


def learn(policy: Policy, sample: Mapping[str, AnyArray]) -> dict[str, Float32Array]:
    """Learn all that `policy` needs from good rows of `tokens (n, d)`, `prefix (n, p, d)`, `pooled (n, w)`.

    `tokens` are what is left after pooling and merging. Raises `StorageValueError` for too small a sample.
    """
    if any(not len(values) for values in sample.values()):
        raise StorageValueError("no good rows to learn the policy from", found=policy.name)
    learnt: dict[str, Float32Array] = {}
    left = dict(sample)
    if "tokens" in left:
        refuse_few_tokens(policy, len(left["tokens"]))
    if policy.pca and "tokens" in left:
        mean, basis = linear.learn_basis(left["tokens"], policy.pca)
        learnt |= {"pca.mean": mean, "pca.basis": basis}
        left["tokens"] = linear.to_basis(left["tokens"], mean, basis)
    if policy.pq and "tokens" in left:
        learnt["pq.codebook"] = linear.learn_codebook(left.pop("tokens"), policy.pq)
    if policy.number == "int8":
        for name, values in left.items():
            mean, deviation = scaled.channel_statistics(values)
            learnt |= {f"{name}.mean": mean, f"{name}.deviation": deviation}
    return {name: np.ascontiguousarray(learnt[name]) for name in sorted(learnt)}


def learnt_shapes(policy: Policy, card: EncoderCard, arrays: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Name and shape of everything that a feature with these arrays learns."""
    shapes: dict[str, tuple[int, ...]] = {}
    width = policy.pca or card.width
    if policy.pca:
        shapes |= {"pca.mean": (card.width,), "pca.basis": (policy.pca, card.width)}
    if policy.pq:
        shapes["pq.codebook"] = (policy.pq, linear.CODES, width // policy.pq)
    if policy.number == "int8":
        of = {"tokens": (width,), "prefix": (card.prefix, card.width), "pooled": (card.pooled_width,)}
        for name, shape in of.items():
            if name in arrays and not (name == "tokens" and policy.pq):
                shapes |= {f"{name}.mean": shape, f"{name}.deviation": shape}
    return shapes


def commit(
    store: Path, feature: str, *, identity: Mapping[str, str], make: Callable[[], dict[str, Float32Array]]
) -> Calibration:
    """The calibration of a feature that is about to be made: what is there, or else `make()`, committed.

    `identity` says of what and for which policy it is. `MismatchError` where another one is there.
    """
    folder = layout.feature(store, feature)
    path = layout.of_feature(folder, layout.CALIBRATION)
    wanted = json.dumps(dict(identity), sort_keys=True)
    if not path.is_file():
        # One entry: the library writes several in no fixed order.
        files.commit(path, save(make(), metadata={_IDENTITY: wanted}))
    found = path.read_bytes()
    stored = _identity(found, path)
    if stored != wanted:
        raise MismatchError(
            "the feature's folder holds the calibration of another feature",
            where=feature,
            found=stored,
            allowed=wanted,
            todo=f"take another name; or remove {layout.FEATURES}/{feature}, where nothing was stored yet",
        )
    return Calibration(load(found), hashlib.sha256(found).hexdigest())


def _identity(data: bytes, path: Path) -> str:
    size = int.from_bytes(data[:8], "little")
    try:
        return str(json.loads(data[8 : 8 + size])["__metadata__"][_IDENTITY])
    except (ValueError, KeyError, TypeError):
        raise CorruptStoreError("the calibration cannot be read", where=_where(path)) from None


def _where(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def read(folder: Path, header: FeatureHeader, policy: Policy) -> Calibration | None:
    """The calibration of a feature, none where its policy learns nothing.

    `CorruptStoreError` where it is missing, is not the one that the header names, or does not fit the policy.
    """
    wanted = learnt_shapes(policy, header.card, tuple(a.name for a in header.arrays))
    if not wanted:
        return None
    path = layout.of_feature(folder, layout.CALIBRATION)
    todo = "remove it if it is there, and run the command that made the feature: it learns the same again"
    try:
        if path.stat().st_size > MOST_BYTES:
            raise CorruptStoreError("the calibration is too large", where=_where(path), todo=todo)
        data = path.read_bytes()
    except OSError as bad:
        raise CorruptStoreError(
            f"the calibration cannot be read: {bad.strerror}", where=_where(path), todo=todo
        ) from None
    digest = hashlib.sha256(data).hexdigest()
    if digest != header.calibration_sha256:
        raise CorruptStoreError(
            "the calibration is not the one that the header names",
            where=_where(path),
            found=f"sha256 {digest}",
            allowed=header.calibration_sha256,
            todo=todo,
        )
    try:
        arrays = load(data)
    except SafetensorError as bad:
        raise CorruptStoreError(f"the calibration cannot be read: {bad}", where=_where(path)) from None
    found = {name: (values.shape, values.dtype.name) for name, values in arrays.items()}
    if found != {name: (shape, "float32") for name, shape in wanted.items()}:
        raise CorruptStoreError("the calibration does not fit the policy", where=_where(path), found=found)
    return Calibration(arrays, digest)

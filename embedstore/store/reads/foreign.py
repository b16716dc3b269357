"""Arrays of a store that another Zarr library wrote in another layout: compressed, or with other chunks.

What is laid out as ours is read as ours; everything else, and chunks that are not there because they hold
nothing but the fill value, through zarr-python, whole chunks at a time.
"""

from __future__ import annotations

import json
import math
from functools import cached_property, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.documents import read_bounded
from embedstore.errors import CorruptStoreError
from embedstore.store import layout
from embedstore.store.reads.chunks import REPAIR, ShardedArray
from embedstore.store.reads.pieces import cut
from embedstore.store.remote.array import RemoteArray
from embedstore.store.remote.cache_folder import is_mirrored

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from embedstore.documents import ArraySpec
    from embedstore.shapes import AnyArray, IntArray
    from embedstore.store.reads.chunks import Verify
    from embedstore.store.reads.pieces import Task

_TASK_BYTES = 2 << 20
# Fill values take no room in a file; more than this for a byte of it is no data.
_MOST_SHRUNK = 4096
_TRUSTED_BYTES = 64 << 20
_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
_CRC = {"name": "crc32c"}
_CODECS = {"blosc", "bytes", "crc32c", "gzip", "sharding_indexed", "transpose", "zstd"}


def open_array(feature: Path, spec: ArraySpec, verify: Verify) -> ShardedArray:
    """An array of a feature's folder: ours, one of a remote store, or one that another library wrote.

    Raises `CorruptStoreError` where the folder holds an array of another shape or dtype.
    """
    if is_mirrored(feature):
        return RemoteArray(feature, spec, verify)
    found = _metadata(feature, spec)
    if found is None or _ours(found, spec):
        return ShardedArray(feature, spec, verify)
    return ForeignArray(feature, spec, verify)


def _metadata(feature: Path, spec: ArraySpec) -> Mapping[str, Any] | None:
    """The array's `zarr.json`; none where it is missing or no JSON, which `verify` tells and mends."""
    path = feature / spec.name / layout.ZARR
    try:
        found = json.loads(read_bounded(layout.inside(layout.store_of(feature), path), CorruptStoreError))
    except (CorruptStoreError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("node_type") == "array" else None


def _ours(found: Mapping[str, Any], spec: ArraySpec) -> bool:
    grid, inner = _chunks(found)
    return _uncompressed(found) and (grid, inner) == (spec.shard, spec.chunk)


def _chunks(found: Mapping[str, Any]) -> tuple[int, int]:
    """Places of a shard, and of an inner chunk, which is the shard where there are none; 0 where untold."""
    try:
        shard = int(found["chunk_grid"]["configuration"]["chunk_shape"][0])
        codec = found["codecs"][0]
        sharded = codec["name"] == "sharding_indexed"
        return shard, int(codec["configuration"]["chunk_shape"][0]) if sharded else shard
    except (KeyError, IndexError, TypeError, ValueError):
        return 0, 0


def _uncompressed(found: Mapping[str, Any]) -> bool:
    """Whether shards are laid out as ours: cut along the first axis, plain chunks with a crc32c."""
    try:
        (codec,) = found["codecs"]
        inner, rest = codec["configuration"], list(found["shape"][1:])
        plain = [{"name": "bytes"}, _CRC] if found["data_type"] in ("uint8", "int8") else None
        return bool(
            codec["name"] == "sharding_indexed"
            and found["chunk_grid"]["configuration"]["chunk_shape"][1:] == rest
            and inner["chunk_shape"][1:] == rest
            and inner["codecs"] in ([_BYTES, _CRC], plain)
            and inner["index_codecs"] == [_BYTES, _CRC]
            and inner.get("index_location", "end") == "end"
            and found["chunk_key_encoding"].get("configuration", {}).get("separator", "/") == "/"
        )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return False


def _refuse_unknown(found: Mapping[str, Any], *, where: str) -> None:
    """`CorruptStoreError` for codecs that are not of Zarr itself: what others install may run anything."""
    try:
        names = set(_codec_names(found["codecs"]))
    except (KeyError, TypeError, AttributeError):
        raise CorruptStoreError("the Zarr metadata cannot be read", where=where, todo=REPAIR) from None
    if names - _CODECS or found.get("storage_transformers"):
        raise CorruptStoreError(
            "the array is stored in a way that is not read",
            where=where,
            found=f"codecs {', '.join(sorted(names))}",
            allowed=f"{', '.join(sorted(_CODECS))}, and no storage transformers",
            todo="write it again with these codecs",
        )


def _codec_names(codecs: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for codec in codecs:
        yield str(codec["name"])
        inner = codec.get("configuration") or {}
        for key in ("codecs", "index_codecs"):
            yield from _codec_names(inner.get(key, ()))


class ForeignArray(ShardedArray):
    """One array of a feature in the layout that its `zarr.json` tells. Thread-safe.

    Checksums are tested where the array has a codec for them: by us where the layout is like ours, else by
    zarr-python at every read. A chunk that is not there holds the fill value, as Zarr has it.
    """

    def __init__(self, feature: Path, spec: ArraySpec, verify: Verify = "first") -> None:
        found = _metadata(feature, spec) or {}
        shard, chunk = _chunks(found)
        same = found.get("shape") == list(spec.shape) and found.get("data_type") == spec.dtype
        if not same or chunk < 1 or shard % chunk:
            raise CorruptStoreError(
                "another array lies here than the feature's header says",
                where=f"{feature.name}/{spec.name}/{layout.ZARR}",
                found=f"{found.get('data_type')} {found.get('shape')}, chunks {chunk}, shards {shard}",
                allowed=f"{spec.dtype} {list(spec.shape)}",
                todo=REPAIR,
            )
        _refuse_unknown(found, where=f"{feature.name}/{spec.name}/{layout.ZARR}")
        super().__init__(feature, spec.model_copy(update={"shard": shard, "chunk": chunk}), verify)
        self._like_ours, self._header_spec = _uncompressed(found), spec

    def __reduce__(self) -> tuple[Any, ...]:
        return ForeignArray, (self._feature, self._header_spec, self._mode)

    @property
    def past_cache(self) -> bool:
        """Whether `direct_io` means something here: who reads decides."""
        return False

    @property
    def whole_chunks(self) -> bool:
        """A part of a compressed chunk costs as much as all of it."""
        return not self._like_ours

    @cached_property
    def _zarr(self) -> Any:
        import zarr

        stored, found = self._stored_bytes, zarr.open_array(str(self._feature / self.spec.name), mode="r")
        # Zarr makes room for a whole chunk, and for the index of a whole shard.
        sizes = math.prod(found.chunks), math.prod(found.shards or found.chunks) // math.prod(found.chunks)
        room = max(sizes[0] * self.dtype.itemsize, 16 * sizes[1])
        if room > max(_TRUSTED_BYTES, _MOST_SHRUNK * stored):
            raise self._promises_more(f"{room} bytes of one chunk or index", 0)
        return found

    @cached_property
    def _stored_bytes(self) -> int:
        """Bytes of all files of the array; `CorruptStoreError` where a link leads out of the store."""
        total, store = 0, layout.store_of(self._feature)
        for path in (self._feature / self.spec.name).rglob("*"):
            if path.is_symlink():
                layout.inside(store, path)
            elif path.is_file():
                total += path.stat().st_size
        return total

    def _read_shard(self, number: int, first: int, stop: int, out: AnyArray) -> None:
        if self._like_ours:
            try:
                super()._read_shard(number, first, stop, out)
            except CorruptStoreError as bad:
                # Chunks of nothing but fill values are not written, nor shards of such chunks.
                if "is missing" not in bad.problem and "cannot be opened" not in bad.problem:
                    raise
            else:
                return
        begin = number * self.spec.shard
        try:
            values = np.asarray(self._zarr[begin + first : begin + stop])
        except CorruptStoreError:
            raise
        except Exception as bad:
            raise CorruptStoreError(
                f"zarr cannot read it: {bad}",
                where=self._where(number),
                found=f"rows {begin + first} to {begin + stop - 1}",
                todo=REPAIR,
            ) from bad
        out.view(self.dtype).reshape(values.shape)[...] = values

    def scatter(
        self,
        starts: IntArray,
        lengths: IntArray | None,
        targets: IntArray,
        out: AnyArray,
        *,
        direct_io: bool = False,  # noqa: ARG002 - see past_cache
    ) -> list[Task]:
        """As of an array of ours: ranges of whole neighbouring chunks, each read once, and copied."""
        if not len(starts) or not self.place_bytes:
            return []
        pieces = cut(starts, lengths, targets, self.spec.chunk)
        first = pieces.chunk * self.spec.chunk + pieces.first
        most = max(1, _TASK_BYTES // max(1, self.chunk_bytes))
        begins = np.flatnonzero(np.diff(pieces.chunk // most, prepend=-1))
        return [
            partial(self._read_range, first[i:j], pieces.places[i:j], pieces.target[i:j], out)
            for i, j in pairwise([*begins.tolist(), len(first)])
        ]

    def _read_range(self, first: IntArray, places: IntArray, target: IntArray, out: AnyArray) -> None:
        low = int(first[0])
        values = self.read(low, int((first + places).max()))
        if (places == 1).all():
            out[target] = values[first - low]
            return
        for at, count, to in zip((first - low).tolist(), places.tolist(), target.tolist(), strict=True):
            out[to : to + count] = values[at : at + count]

    def refuse_impossible(self, starts: IntArray, lengths: IntArray) -> None:
        """Places that no file of this size can hold."""
        self._refuse_many(int(lengths.sum()), int(starts.min(initial=0)))

    def refuse_impossible_read(self, start: int, stop: int) -> None:
        """The same of neighbours."""
        self._refuse_many(stop - start, start)

    def _refuse_many(self, places: int, start: int) -> None:
        wanted = places * self.place_bytes
        if wanted > _TRUSTED_BYTES and wanted > _MOST_SHRUNK * self._stored_bytes:
            raise self._promises_more(f"{places} places of {self.place_bytes} bytes", start)

    def _promises_more(self, promised: str, start: int) -> CorruptStoreError:
        return CorruptStoreError(
            "the header promises more than the files hold",
            where=self._where(start // self.spec.shard),
            found=f"{self._stored_bytes} bytes",
            allowed=promised,
            todo=REPAIR,
        )

    def in_memory(self, place: int) -> bool:  # noqa: ARG002 - nobody is asked to read ahead
        """Whether asking the system to read ahead is of no use: so it is where zarr reads."""
        return True

"""A complete feature: rows of its arrays as NumPy arrays in their stored dtype."""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from embedstore.errors import CorruptStoreError, UsageError
from embedstore.store import arrow, layout, tables
from embedstore.store.coding.coder import SCALES_OF, Coder
from embedstore.store.ids import rows_of_ids
from embedstore.store.padded import Padded, pad
from embedstore.store.reads.blocks import packed_tasks
from embedstore.store.reads.chunks import REPAIR, ShardedArray, Verify, checked_rows
from embedstore.store.reads.foreign import open_array

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa

    from embedstore.documents import ArrayName, EncoderCard, FeatureHeader, FeatureManifest, Table
    from embedstore.shapes import AnyArray, ByteArray, Float32Array, IntArray


@dataclass(frozen=True, slots=True)
class Packed:
    """Tokens `(sum, d)` of several texts, or their scales `(sum,)`, packed; `offsets (b + 1,)` int64."""

    tokens: AnyArray
    offsets: IntArray

    def padded(self, length: int | None = None) -> Padded:
        """The same with a place for every text alike: the longest text's, or `length`; padding is zero.

        `UsageError` where a text has more tokens than `length`.
        """
        return pad(self.tokens, self.lengths, length)

    @property
    def lengths(self) -> IntArray:
        """Tokens of each text `(b,)` int64."""
        return np.diff(self.offsets)

    def to_arrow(self) -> pa.Array:
        """The same memory as b Arrow lists: of fixed-size lists of d numbers, or of one scale a token."""
        return arrow.large_lists(self.tokens, self.offsets)


class Feature:
    """What one encoder made of one table. Thread-safe; holds no tokens.

    Arrays: images `tokens (n, t, d)`, `prefix (n, p, d)` where the encoder has one, `pooled (n, w)`,
    `status (n,)`; texts ragged tokens through `text_tokens`, `lengths (n,)`, `pooled (n, w)`, `status (n,)`.
    Quarantined rows hold NaN (texts: no tokens) and have status 1.

    `read`, `gather` and `text_tokens` give what is stored; `decoded`, `decoded_text` and `padded_text` give
    float32 under every policy. Merged tokens come with `weights (n, t)`, the share of the picture that each
    stands for.
    """

    def __init__(self, path: Path, manifest: FeatureManifest, verify: Verify = "first") -> None:
        self.path, self.manifest, self._verify = path, manifest, verify
        self._arrays: Mapping[str, ShardedArray] = self._open_arrays()
        self._lock = threading.Lock()
        self._coder: Coder | None = None
        self._lengths: AnyArray | None = None
        self._starts: IntArray | None = None

    def _open_arrays(self) -> Mapping[str, ShardedArray]:
        return {a.name: open_array(self.path, a, self._verify) for a in self.header.arrays}

    def __reduce__(self) -> tuple[type[Feature], tuple[Path, FeatureManifest, Verify]]:
        return Feature, (self.path, self.manifest, self._verify)

    def __repr__(self) -> str:
        return f"Feature({self.name!r}, {self.table}, {self.rows} rows, arrays {', '.join(self._arrays)})"

    @property
    def header(self) -> FeatureHeader:
        """Everything that was decided before the first unit."""
        return self.manifest.header

    @property
    def name(self) -> str:
        """The name the user gave."""
        return self.header.name

    @property
    def card(self) -> EncoderCard:
        """The encoder that made this feature."""
        return self.header.card

    @property
    def table(self) -> Table:
        """The table whose rows these are: images or texts."""
        return self.header.table

    @property
    def rows(self) -> int:
        """Rows of that table."""
        return self.header.rows

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of the arrays."""
        return tuple(self._arrays)

    def only_pooled(self) -> Feature:
        """The same without tokens, as an imported feature has only pooled embeddings: for readers of these.

        A view over the same arrays, for one process; `UsageError` where nothing pooled is stored.
        """
        self.array("pooled")
        found = copy.copy(self)
        kept = ("pooled", "pooled_scales", "lengths", "status")
        found._arrays = {name: array for name, array in self._arrays.items() if name in kept}
        return found

    def array(self, name: ArrayName) -> ShardedArray:
        """One array by name; `UsageError` where the feature has none of that name."""
        if name not in self._arrays:
            raise UsageError(f"feature {self.name!r} has no array {name!r}", allowed=", ".join(self._arrays))
        return self._arrays[name]

    def _by_row(self, name: ArrayName) -> ShardedArray:
        if name in ("tokens", "scales") and self.table == "texts":
            raise UsageError(
                "text tokens are ragged", where=self.name, todo="read them with text_tokens(rows)"
            )
        return self.array(name)

    def read(self, name: ArrayName, start: int, stop: int, out: AnyArray | None = None) -> AnyArray:
        """Rows `[start, stop)` of an array in the stored dtype, into `out` where it is given."""
        return self._by_row(name).read(start, stop, out)

    def gather(
        self, name: ArrayName, rows: IntArray | Sequence[int], out: AnyArray | None = None
    ) -> AnyArray:
        """Any rows of an array, in any order, repeats allowed."""
        return self._by_row(name).gather(np.asarray(rows), out)

    def ids(self) -> pa.ChunkedArray[pa.StringScalar]:
        """The id of every row, from the table."""
        return tables.read_table(layout.store_of(self.path), self.table, ["id"])["id"]

    def by_id(self, ids: Iterable[str], name: ArrayName = "tokens") -> AnyArray | Packed:
        """The values of an array for these ids, in their order; tokens of texts come packed.

        Row numbers instead: `store.rows_of(ids)`. `UsageError` names ids that the table does not hold.
        """
        rows = rows_of_ids(self.ids(), ids, where=f"{self.name}, table {self.table}")
        if name == "tokens" and self.table == "texts":
            return self.text_tokens(rows)
        return self.gather(name, rows)

    def to_arrow(self, rows: IntArray | Sequence[int] | range, name: ArrayName = "tokens") -> pa.Array:
        """Any rows of an array as stored, read once into the memory that the Arrow array then holds.

        Arrays of axes are fixed-size lists of fixed-size lists; tokens of texts are large lists of these.
        bfloat16 comes as it is stored, as uint16. The other way without a copy: NumPy's and torch's
        `from_dlpack` of what `gather` gives.
        """
        if self.table == "texts" and name in ("tokens", "scales"):
            return self.text_tokens(rows, name).to_arrow()
        return arrow.fixed_lists(self.gather(name, rows))

    @property
    def coder(self) -> Coder:
        """What decodes this feature; `CorruptStoreError` where its calibration is missing or damaged."""
        with self._lock:
            if self._coder is None:
                self._coder = Coder.read(self.path, self.header)
            return self._coder

    def decoded(self, name: ArrayName, rows: IntArray | Sequence[int] | range) -> Float32Array:
        """Any rows of `tokens`, `prefix` or `pooled` as float32 `(b, …, d)`; quarantined rows are NaN.

        Tokens come as many as are stored: under a policy that pools or merges, fewer than the patches.
        """
        if name not in SCALES_OF:
            raise UsageError(f"{name!r} is stored as it is", allowed=", ".join(SCALES_OF), todo="use read")
        wanted = checked_rows(rows, self.rows, of=name)
        has_scales = SCALES_OF[name] in self._arrays
        scales = self.gather(SCALES_OF[name], wanted) if has_scales else None
        values = self.coder.decode(name, self.gather(name, wanted), scales)
        if name == "tokens" and self.coder.policy.pq:
            values[self.gather("status", wanted) != 0] = np.nan
        return values

    def decoded_text(self, rows: IntArray | Sequence[int] | range | slice) -> Packed:
        """Tokens of any texts as float32, packed."""
        packed = self.text_tokens(rows)
        scales = self.text_tokens(rows, "scales").tokens if "scales" in self._arrays else None
        return Packed(self.coder.decode("tokens", packed.tokens, scales), packed.offsets)

    def padded_text(
        self, rows: IntArray | Sequence[int] | range | slice, length: int | None = None
    ) -> Padded:
        """Tokens of any texts as float32 `(b, l, d)`, zeros behind each, with their mask `(b, l)`.

        l is the longest of these texts, or `length`; `UsageError` where one is longer than that.
        """
        return self.decoded_text(rows).padded(length)

    def status(self) -> ByteArray:
        """`(n,)` uint8: 0 good, 1 quarantined."""
        found: ByteArray = self.read("status", 0, self.rows)
        if found.size and int(found.max()) > 1:
            raise CorruptStoreError(
                "a row is neither good nor quarantined",
                where=f"{self.name}/status",
                found=f"{found.max()} at row {found.argmax()}",
                allowed="0 or 1",
                todo=REPAIR,
            )
        return found

    def lengths(self) -> AnyArray:
        """Tokens of every text `(n,)` int32, read once; do not write into it."""
        with self._lock:
            if self._lengths is None:
                lengths = self.read("lengths", 0, self.rows)
                if lengths.size and (int(lengths.min()) < 0 or int(lengths.max()) > self.header.max_tokens):
                    raise CorruptStoreError(
                        "a text has an impossible number of tokens", where=f"{self.name}/lengths", todo=REPAIR
                    )
                lengths.flags.writeable = False
                self._lengths = lengths
            return self._lengths

    def token_starts(self) -> IntArray:
        """The place in the packed tokens where each text begins `(n,)` int64; do not write into it."""
        lengths = self.lengths()
        with self._lock:
            if self._starts is None:
                starts = np.cumsum(lengths, dtype=np.int64) - lengths
                units = np.arange(self.rows, dtype=np.int64) // self.header.shard_rows
                before = starts[np.arange(self.header.units) * self.header.shard_rows]
                starts += (units * (self.header.shard_rows * self.header.max_tokens)) - before[units]
                starts.flags.writeable = False
                self._starts = starts
            return self._starts

    def text_tokens(
        self, rows: IntArray | Sequence[int] | range | slice, name: Literal["tokens", "scales"] = "tokens"
    ) -> Packed:
        """Stored tokens, or their scales, of any texts in the given order, packed."""
        tokens = self.array(name)
        if self.table != "texts":
            raise UsageError(
                "only text features have ragged tokens", where=self.name, todo="use read or gather"
            )
        given = np.arange(self.rows)[rows] if isinstance(rows, slice) else rows
        wanted = checked_rows(given, self.rows, of="the feature")
        lengths = self.lengths()[wanted].astype(np.int64)
        starts = self.token_starts()[wanted]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        tokens.refuse_impossible(starts, lengths)
        out = tokens.empty(int(offsets[-1]))
        for task in packed_tasks(tokens, starts, lengths, offsets[:-1], out):
            task()
        return Packed(out, offsets)

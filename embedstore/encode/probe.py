"""A short run of the real pipeline that stores nothing: how fast it is, and how large its rows are."""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from embedstore.encode.decoding import open_decoders
from embedstore.encode.images import encode_image_units
from embedstore.encode.options import TEXT_TOKENS_PER_PICTURE, EncodeOptions
from embedstore.encode.texts import encode_text_units
from embedstore.encode.unit import Target
from embedstore.errors import DiskFullError
from embedstore.store import files, shard
from embedstore.store.coding.calibration import learnt_shapes
from embedstore.store.coding.coder import Coder
from embedstore.store.geometry import effective_policy, fill_value

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from embedstore.encode.features import FeatureJob, ImageJob, TextJob
    from embedstore.encode.plan import PlannedSource
    from embedstore.encode.unit import EncodedUnit
    from embedstore.encoders.base import TextEncoder
    from embedstore.shapes import IntArray

SECONDS, LEAST, MOST = 4.0, 3, 64
"""A probe lasts so long after its first unit, but so many units at least and at most."""
COUNTED_TEXTS = 16_384
_BATCHES_OF_TEXTS = 8


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a pass was seen to do: rows a second once it runs, seconds until then, bytes of a thumbnail."""

    rate: float
    startup: float
    thumbnail: float = 0.0


def probe_images(
    jobs: Sequence[FeatureJob], first: ImageJob, planned: PlannedSource, options: EncodeOptions, place: Path
) -> Probe:
    """Decode, encode and write the first rows, a batch a unit; the files go to a folder beside `place`."""
    size, rows = options.batch_for(first.header.card), first.header.rows
    with open_decoders(options) as decoders:
        units = encode_image_units(
            planned,
            first.encoder,
            [target_of(job) for job in jobs],
            _units(rows, size),
            batch_size=size,
            decoders=decoders,
            on_rows=lambda _: None,
            rows_of=lambda unit: range(unit * size, min(rows, (unit + 1) * size)),
        )
        return _watch(units, jobs, place)


def probe_texts(
    jobs: Sequence[FeatureJob], first: TextJob, planned: PlannedSource, options: EncodeOptions, place: Path
) -> Probe:
    """Cut into tokens, encode and write the first rows, in units as they are or some batches large."""
    batch_size = options.batch_for(first.header.card)
    size = min(first.header.shard_rows, _BATCHES_OF_TEXTS * batch_size)
    texts = [row["text"] for row in islice(planned.text_rows(), size * MOST)]
    units = encode_text_units(
        lambda rows: [texts[row] for row in rows],
        first.encoder,
        [target_of(job) for job in jobs],
        _units(len(texts), size),
        token_budget=TEXT_TOKENS_PER_PICTURE * batch_size,
        on_rows=lambda _: None,
        rows_of=lambda unit: range(unit * size, min(len(texts), (unit + 1) * size)),
    )
    return _watch(units, jobs, place)


def count_tokens(
    planned: PlannedSource, encoder: TextEncoder, *, shard_rows: int, everything: bool
) -> tuple[float, IntArray | None]:
    """Tokens of a text on average, and those of each unit where all texts were counted.

    The first `COUNTED_TEXTS` are looked at, or `everything`.
    """
    rows = planned.text_rows()
    lengths: list[IntArray] = []
    while batch := [row["text"] for row in islice(rows, COUNTED_TEXTS)]:
        lengths.append(np.array([len(ids) for ids in encoder.prepare(batch)[0]], np.int64))
        if not everything:
            break
    counted = np.concatenate(lengths)
    whole = next(rows, None) is None
    per_unit = np.add.reduceat(counted, np.arange(0, len(counted), shard_rows)) if whole else None
    return float(counted.mean()), per_unit


def _units(rows: int, size: int) -> range | list[int]:
    """Units of `size` rows; a single one twice, since its first time is that of warming up."""
    count = min(MOST, -(-rows // size))
    return range(count) if count > 1 else [0, 0]


def target_of(job: FeatureJob) -> Target:
    """A feature that is not kept, coded as quickly as a real one: that is no matter of what was learnt."""
    header = job.header
    policy = effective_policy(header.policy, header.card)
    shapes = learnt_shapes(policy, header.card, tuple(a.name for a in header.arrays))
    learnt = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    return Target(header=header, coder=Coder.of(header, learnt), output=job.output)


def _watch(units: Iterator[EncodedUnit], jobs: Sequence[FeatureJob], place: Path) -> Probe:
    marks, rows, sizes = [time.perf_counter()], [0], list[int]()
    with _Beside(place, jobs) as disk:
        for unit in units:
            disk.put(unit)
            marks.append(time.perf_counter())
            rows.append(len(unit.arrays[0]["pooled"]))
            sizes += [len(jpeg) for jpeg in unit.thumbnails or () if jpeg is not None]
            if len(marks) > LEAST + 1 and marks[-1] - marks[1] > SECONDS:
                break
    rate = sum(rows[2:]) / (marks[-1] - marks[1])
    return Probe(
        rate=rate,
        startup=max(0.0, marks[1] - marks[0] - rows[1] / rate),
        thumbnail=float(np.mean(sizes)) if sizes else 0.0,
    )


@dataclass
class _Beside:
    """Writes units as the store's writer does, to a folder that is removed, where one can be made."""

    place: Path
    jobs: Sequence[FeatureJob]
    _stack: ExitStack = field(default_factory=ExitStack)
    _folder: Path | None = None
    _writing: Future[None] | None = None

    def __enter__(self) -> Self:
        where = next(p for p in self.place.absolute().parents if p.is_dir())
        with suppress(OSError):
            made = tempfile.TemporaryDirectory(prefix=".embedstore-dry-run-", dir=where)
            self._folder = Path(self._stack.enter_context(made))
        self._pool = self._stack.enter_context(ThreadPoolExecutor(1, "store"))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def put(self, unit: EncodedUnit) -> None:
        """Begin to write a unit, once the one before is written."""
        if self._writing is not None:
            self._writing.result()
        if self._folder is not None:
            self._writing = self._pool.submit(_unless_full, unit, self.jobs, self._folder)


def _unless_full(unit: EncodedUnit, jobs: Sequence[FeatureJob], folder: Path) -> None:
    # A disk that is full here is not what is asked; the prediction tells what is missing.
    with suppress(OSError, DiskFullError):
        write_unit(unit, jobs, folder)


def write_unit(unit: EncodedUnit, jobs: Sequence[FeatureJob], folder: Path) -> None:
    """Write the shards of a unit into a folder as the store's writer does, flush them and remove them again.

    Raises `DiskFullError`, and `StoreError` where nothing can be written.
    """
    made: list[Path] = []
    try:
        for number, (job, arrays) in enumerate(zip(jobs, unit.arrays, strict=True)):
            for spec in job.header.arrays:
                if spec.name in arrays:
                    name, _ = shard.write(
                        folder / f"{number}-{spec.name}",
                        arrays[spec.name],
                        places=spec.shard,
                        chunk=spec.chunk,
                        fill=fill_value(spec),
                    )
                    made.append(name)
        files.flush_files(made)
    finally:
        for name in made:
            files.remove(name)

"""What became of every query row: what recomputes a report's figures, and compares two row by row."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from embedstore.bench.figures import RECALL_AT
from embedstore.documents import Figure
from embedstore.errors import UsageError
from embedstore.metrics.intervals import percentiles
from embedstore.metrics.statistics import Sample, Statistic, resampled, values_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from embedstore.bench.rows import Pairs
    from embedstore.shapes import AnyArray, IntArray
    from embedstore.store import Store

SUFFIX = ".outcomes.parquet"
_KEYS = ("group", "id", "owner", "stratum")
_STATISTICS = b"embedstore.statistics"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """Rows of one group of a report, and what its figures are of them.

    ids `(n,)`: of the image or text that a row is about. One row a query, as a rule; several where a query
    has parts, such as one for each class of a segmented picture (every id needs one row). owners `(n,)`: the
    id of the image that a text belongs to; where they are told, these are the units that the bootstrap draws,
    each with all its rows, since what several texts of one image find is alike; without them the ids are.
    strata `(n,)`: the class, category or language of a row, where a figure is a mean over these; null: none.
    values: name -> `(n,)` numbers, such as "rank" (from 1), "right" (a share of 1) or "intersection"; NaN
    where a row has no such value. statistics: metric -> what it is of the rows. `UsageError` where lengths
    differ.
    """

    ids: pa.Array[Any] | Sequence[str]
    values: Mapping[str, AnyArray]
    statistics: Mapping[str, Statistic]
    strata: pa.Array[Any] | Sequence[str | None] | None = field(default=None)
    owners: pa.Array[Any] | Sequence[str] | None = field(default=None)

    def __post_init__(self) -> None:
        lengths = {len(self.ids), *map(len, self.values.values())}
        lengths |= {len(told) for told in (self.strata, self.owners) if told is not None}
        if len(lengths) != 1:
            raise UsageError("outcomes of different lengths", found=sorted(lengths))
        if set(self.values) & set(_KEYS):
            raise UsageError("an outcome cannot have this name", found=sorted(set(self.values) & set(_KEYS)))

    @property
    def unit_of(self) -> dict[str, str]:
        """The unit of each id."""
        ids, units = (pa.array(told, pa.string()).to_pylist() for told in (self.ids, self.units))
        return dict(zip(ids, units, strict=True))

    @property
    def units(self) -> pa.Array[Any] | Sequence[str]:
        """What the bootstrap draws, of each row `(n,)`."""
        return self.ids if self.owners is None else self.owners

    @property
    def sample(self) -> Sample:
        """The rows as numbers, for `embedstore.metrics.statistics`."""
        units, _ = _numbers(self.units)
        strata, names = _numbers(self.strata if self.strata is not None else [None] * len(self.ids))
        return Sample(units=units, strata=strata, stratum_names=names, values=self.values)


def image_ids(store: Store, rows: IntArray) -> pa.Array[Any]:
    """The ids of rows `(n,)` of the images table, in that order."""
    return store.images(["id"])["id"].take(pa.array(rows)).combine_chunks()


def text_ids(store: Store, rows: IntArray) -> pa.Array[Any]:
    """The ids of rows `(n,)` of the texts table, in that order."""
    return store.texts(["id"])["id"].take(pa.array(rows)).combine_chunks()


def rank_outcomes(
    ids: pa.Array[Any] | Sequence[str],
    ranks: IntArray,
    *,
    owners: pa.Array[Any] | Sequence[str] | None = None,
    whole: bool = True,
) -> Outcomes:
    """Of queries with the rank of their best positive `(q,)`: recall@k, and the median and the mean rank.

    owners: the image of each query that is a text. Not `whole`: the ranks are known up to the highest k only,
    and there are no such means.
    """
    statistics = {f"recall@{k}": Statistic(kind="mean", value="rank", at_most=k) for k in RECALL_AT}
    if whole:
        statistics["median_rank"] = Statistic(kind="median", value="rank")
        statistics["mean_rank"] = Statistic(kind="mean", value="rank")
    return Outcomes(ids=ids, owners=owners, values={"rank": ranks}, statistics=statistics)


def pair_outcomes(
    store: Store, pairs: Pairs, ranks: Mapping[str, IntArray], *, whole: bool = True
) -> dict[str, Outcomes]:
    """The same of both directions of a retrieval: ranks of `text_to_image (m,)` and `image_to_text (n,)`."""
    images = image_ids(store, pairs.images)
    return {
        "text_to_image": rank_outcomes(
            text_ids(store, pairs.texts),
            ranks["text_to_image"],
            owners=images.take(pa.array(pairs.image_of)),
            whole=whole,
        ),
        "image_to_text": rank_outcomes(images, ranks["image_to_text"], whole=whole),
    }


def class_outcomes(ids: pa.Array[Any] | Sequence[str], ranks: IntArray, labels: Sequence[str]) -> Outcomes:
    """Of images with the rank of their class `(n,)` and its name: top-1, top-5 and mean-per-class."""
    return Outcomes(
        ids=ids,
        strata=labels,
        values={"rank": ranks},
        statistics={
            "top-1": Statistic(kind="mean", value="rank", at_most=1),
            "top-5": Statistic(kind="mean", value="rank", at_most=5),
            "mean-per-class": Statistic(kind="stratum-mean", value="rank", at_most=1),
        },
    )


def figures_of(outcomes: Outcomes, *, seed: int) -> dict[str, Figure]:
    """Each statistic of the outcomes, with its 95 % bootstrap interval over their units."""
    sample = outcomes.sample
    drawn = resampled(sample, outcomes.statistics, seed=seed)
    figures = {}
    for name, value in values_of(sample, outcomes.statistics).items():
        low, high = percentiles(drawn[name])
        figures[name] = Figure(value=value, low=low, high=high)
    return figures


def outcomes_bytes(outcomes: Mapping[str, Outcomes]) -> bytes:
    """All groups as one Parquet table: group, id, owner, stratum, and a column of float64 for each value."""
    names = dict.fromkeys(name for group in outcomes.values() for name in group.values)
    parts = [_table(group, found, list(names)) for group, found in outcomes.items()]
    statistics = {
        group: {metric: asdict(s) for metric, s in found.statistics.items()}
        for group, found in outcomes.items()
    }
    whole = pa.concat_tables(parts).replace_schema_metadata({_STATISTICS: json.dumps(statistics).encode()})
    sink = io.BytesIO()
    pq.write_table(whole, sink, compression="zstd", version="2.6", write_page_checksum=True)
    return sink.getvalue()


def read_outcomes(path: Path, sha256: str | None = None) -> dict[str, Outcomes]:
    """Group -> rows, of a file beside a report; `UsageError` where it is not that file, or not whole."""
    try:
        data = path.read_bytes()
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise UsageError("the outcomes are not those of the report", where=path)
        table = pq.read_table(io.BytesIO(data), page_checksum_verification=True)
        statistics = json.loads((table.schema.metadata or {})[_STATISTICS])
        return {
            group: _outcomes(table.filter(pc.equal(table["group"], group)), metrics)
            for group, metrics in statistics.items()
        }
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError, AttributeError) as bad:
        raise UsageError("the outcomes cannot be read", where=path, found=str(bad)[:200]) from None


def _table(group: str, found: Outcomes, names: list[str]) -> pa.Table:
    count = len(found.ids)
    columns: dict[str, Any] = {
        "group": pa.array([group] * count, pa.string()),
        "id": pa.array(found.ids, pa.string()),
        "owner": _words(found.owners, count),
        "stratum": _words(found.strata, count),
    }
    for name in names:
        values = found.values.get(name)
        columns[name] = (
            pa.nulls(count, pa.float64())
            if values is None
            else pa.array(np.asarray(values, dtype=np.float64), from_pandas=True)
        )
    return pa.table(columns)


def _words(told: pa.Array[Any] | Sequence[str | None] | None, count: int) -> pa.Array[Any]:
    """A column of strings, all null where nothing is told."""
    return pa.nulls(count, pa.string()) if told is None else pa.array(told, pa.string())


def _outcomes(rows: pa.Table, metrics: Mapping[str, Mapping[str, Any]]) -> Outcomes:
    statistics = {metric: Statistic(**fields) for metric, fields in metrics.items()}
    names = {n for s in statistics.values() for n in (s.value, s.over) if n is not None}
    # A file of an earlier version tells no owners: its texts are paired with no other's.
    told = rows if "owner" in rows.column_names else rows.append_column("owner", _words(None, len(rows)))
    strata, owners = (told[name].combine_chunks() for name in ("stratum", "owner"))
    return Outcomes(
        ids=rows["id"].combine_chunks(),
        owners=None if owners.null_count == len(owners) else owners,
        strata=None if strata.null_count == len(strata) else strata,
        values={name: rows[name].to_numpy() for name in rows.column_names if name in names},
        statistics=statistics,
    )


def _numbers(words: pa.Array[Any] | Sequence[str | None]) -> tuple[IntArray, tuple[str, ...]]:
    """The place of each word `(n,)` in the sorted list of them, -1 for null, and that list."""
    column = pa.array(words, pa.string())
    there = pc.unique(column.drop_null())
    rising = there.take(pc.sort_indices(there))
    places = pc.index_in(column, value_set=rising).fill_null(-1).cast(pa.int64()).to_numpy()
    return places, tuple(rising.to_pylist())

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
from embedstore.errors import UsageError
from embedstore.metrics.statistics import Sample, Statistic

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from embedstore.shapes import AnyArray, IntArray
    from embedstore.store import Store

SUFFIX = ".outcomes.parquet"
_KEYS = ("group", "id", "stratum")
_STATISTICS = b"embedstore.statistics"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """Rows of one group of a report, and what its figures are of them.

    ids `(n,)`: of the image or text that a row is about, the unit of the bootstrap. One row a query, as a
    rule; several where a query has parts, such as one for each class of a segmented picture (every id needs
    one row). strata `(n,)`: the class, category or language of a row, where a figure is a mean over these;
    null: none. values: name -> `(n,)` numbers, such as "rank" (from 1), "right" (a share of 1) or
    "intersection"; NaN where a row has no such value. statistics: metric -> what it is of the rows.
    `UsageError` where lengths differ.
    """

    ids: pa.Array[Any] | Sequence[str]
    values: Mapping[str, AnyArray]
    statistics: Mapping[str, Statistic]
    strata: pa.Array[Any] | Sequence[str | None] | None = field(default=None)

    def __post_init__(self) -> None:
        lengths = {len(self.ids), *map(len, self.values.values())}
        lengths |= {len(self.strata)} if self.strata is not None else set()
        if len(lengths) != 1:
            raise UsageError("outcomes of different lengths", found=sorted(lengths))
        if set(self.values) & set(_KEYS):
            raise UsageError("an outcome cannot have this name", found=sorted(set(self.values) & set(_KEYS)))

    @property
    def unit_ids(self) -> tuple[str, ...]:
        """The ids, each once, sorted."""
        return _numbers(self.ids)[1]

    @property
    def sample(self) -> Sample:
        """The rows as numbers, for `embedstore.metrics.statistics`."""
        units, _ = _numbers(self.ids)
        strata, names = _numbers(self.strata if self.strata is not None else [None] * len(self.ids))
        return Sample(units=units, strata=strata, stratum_names=names, values=self.values)


def image_ids(store: Store, rows: IntArray) -> pa.Array[Any]:
    """The ids of rows `(n,)` of the images table, in that order."""
    return store.images(["id"])["id"].take(pa.array(rows)).combine_chunks()


def text_ids(store: Store, rows: IntArray) -> pa.Array[Any]:
    """The ids of rows `(n,)` of the texts table, in that order."""
    return store.texts(["id"])["id"].take(pa.array(rows)).combine_chunks()


def rank_outcomes(ids: pa.Array[Any] | Sequence[str], ranks: IntArray, *, whole: bool = True) -> Outcomes:
    """Of queries with the rank of their best positive `(q,)`: recall@k, and the median and the mean rank.

    Not `whole`: the ranks are known up to the highest k only, and there are no such means.
    """
    statistics = {f"recall@{k}": Statistic(kind="mean", value="rank", at_most=k) for k in RECALL_AT}
    if whole:
        statistics["median_rank"] = Statistic(kind="median", value="rank")
        statistics["mean_rank"] = Statistic(kind="mean", value="rank")
    return Outcomes(ids=ids, values={"rank": ranks}, statistics=statistics)


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


def outcomes_bytes(outcomes: Mapping[str, Outcomes]) -> bytes:
    """All groups as one Parquet table: group, id, stratum, and a column of float64 for each value."""
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
        "stratum": pa.nulls(count, pa.string())
        if found.strata is None
        else pa.array(found.strata, pa.string()),
    }
    for name in names:
        values = found.values.get(name)
        columns[name] = (
            pa.nulls(count, pa.float64())
            if values is None
            else pa.array(np.asarray(values, dtype=np.float64), from_pandas=True)
        )
    return pa.table(columns)


def _outcomes(rows: pa.Table, metrics: Mapping[str, Mapping[str, Any]]) -> Outcomes:
    statistics = {metric: Statistic(**fields) for metric, fields in metrics.items()}
    names = {n for s in statistics.values() for n in (s.value, s.over) if n is not None}
    strata = rows["stratum"].combine_chunks()
    return Outcomes(
        ids=rows["id"].combine_chunks(),
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

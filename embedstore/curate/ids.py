"""The verb `ids`: a subset from a list that somebody else made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.csv as pv
import pyarrow.parquet as pq

from embedstore.curate.algebra import rows_told
from embedstore.curate.operands import KNOWN, narrowed, opened, refuse_empty, within
from embedstore.errors import UsageError
from embedstore.store import choose_rows, create_subset, tables
from embedstore.store.ids import places_of

if TYPE_CHECKING:
    from os import PathLike

    from embedstore.store import Store, Subset


def subset_of_ids(
    store: Store | str | PathLike[str],
    file: str | PathLike[str],
    *,
    name: str,
    rows: str | None = None,
    overwrite: bool = False,
) -> Subset:
    """The rows whose ids stand in a file, all of images or all of texts.

    `.parquet` and `.csv` have a column `id`; reason, concept, rank, score, twin and parent are taken with it,
    as `curate list --format parquet` writes them; any other file has one id a line. Repeats count once.
    `UsageError` for ids that are not there.
    """
    here, path = opened(store), Path(file)
    if not path.is_file():
        raise UsageError("there is no such file of ids", where=path)
    chosen = choose_rows(here, f"./{path}" if not path.is_absolute() else str(path))
    kept = narrowed(chosen.rows, within(here, rows, chosen.table))
    refuse_empty(kept, f"{len(chosen.rows)} ids")
    known = _known(path)
    columns: dict[str, Any] = {"row": kept}
    if known is not None:
        ids = (here.images if chosen.table == "images" else here.texts)(["id"])["id"].take(pa.array(kept))
        lines = known.take(pa.array(places_of(known["id"], ids.to_pylist())))
        columns |= {column: lines[column] for column in known.column_names if column != "id"}
    return create_subset(
        here,
        name,
        columns,
        table=chosen.table,
        verb="ids",
        settings={"file": path.name, "ids_sha256": chosen.sha256}
        | ({"rows": rows_told(here, rows)} if rows is not None else {}),
        counts={"ids": len(chosen.rows)},
        overwrite=overwrite,
    )


def _known(path: Path) -> pa.Table | None:
    """The id and what else a table of ids knows; none of a text file. That it can be read is known."""
    ending = path.suffix.lower()
    if ending == ".parquet":
        names = [n for n in pq.read_schema(path).names if n == "id" or n in KNOWN]
        table = pq.ParquetFile(path).read(columns=names)
    elif ending == ".csv":
        options = pv.ConvertOptions(
            column_types={n: tables.SUBSET.field(n).type for n in ("id", *KNOWN)},
            null_values=[""],
            strings_can_be_null=True,
        )
        try:
            table = pv.read_csv(path, convert_options=options)
        except pa.ArrowException as bad:
            raise UsageError("the table cannot be read", where=path, found=str(bad)[:200]) from None
        table = table.select([n for n in table.column_names if n == "id" or n in KNOWN])
    else:
        return None
    return table.set_column(table.schema.get_field_index("id"), "id", table["id"].cast(pa.string()))

"""Export: rows and features of a store in a layout that other tools read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from embedstore.errors import UsageError
from embedstore.interchange.opening import split_kind
from embedstore.interchange.outputs import nbytes, refuse_existing
from embedstore.interchange.selection import select
from embedstore.interchange.vectors import ARRAYS, DTYPES, Array, Dtype, vectors_of
from embedstore.interchange.writers import ENDINGS, WRITERS, Export
from embedstore.store import choose_rows, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from os import PathLike


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What is taken of the rows, and how it is written."""

    array: Array = "pooled"
    """`pooled`, `tokens` (of patches, or of a text), `cls` (the first prefix token), `mean` (of tokens)."""
    dtype: Dtype = "float16"
    split: str | None = None
    """Split of the pictures; none: every row."""
    rows: str | None = None
    """A subset of the store, or a file of ids, whose rows alone are written; none: every row."""
    language: str = "en"
    """Of the caption that stands beside a picture."""
    part_rows: int = 1_000_000
    """Lines of one part in clip-retrieval's layout."""

    def __post_init__(self) -> None:
        for name, found, allowed in (("array", self.array, ARRAYS), ("dtype", self.dtype, DTYPES)):
            if found not in allowed:
                raise UsageError(
                    f"unknown {name}", where=f"--{name}", found=found, allowed=", ".join(allowed)
                )
        if self.part_rows < 1:
            raise UsageError(
                "option out of range", where="--part-rows", found=self.part_rows, allowed="1 or more"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSummary:
    """What an export wrote; `columns`: feature to shape of one row, null where texts differ in length."""

    kind: str
    name: str
    rows: int
    columns: Mapping[str, tuple[int | None, ...]]
    nbytes: int
    skipped: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """A JSON value."""
        return asdict(self)


def export_rows(
    store: str | PathLike[str],
    to: str,
    *,
    features: Sequence[str],
    options: ExportOptions | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> ExportSummary:
    """Write rows of `features` to `KIND:PATH`, whole or not at all; memory is bounded whatever the size.

    One line a picture where a feature is of pictures (a text feature beside it then gives the picture's first
    caption), else one a text. Quarantined rows are left out and counted, as are texts without a token for
    `mean`. `on_progress(lines done, lines)`.

    Raises `UsageError` for an output that exists, an array that a feature has not, and a format that cannot
    hold it; `MissingExtraError` where the format's library is absent.
    """
    chosen = options or ExportOptions()
    kind, path = split_kind(to, tuple(WRITERS), ENDINGS)
    refuse_existing(path)
    if not features or len(set(features)) < len(features):
        raise UsageError("name each feature once", where="--feature", found=", ".join(features) or "none")
    opened = open_store(store)
    read = [opened[name] for name in features]
    selection = select(
        opened,
        read,
        split=chosen.split,
        language=chosen.language,
        mean=chosen.array == "mean",
        rows=choose_rows(opened, chosen.rows) if chosen.rows is not None else None,
    )
    clash = [name for name in features if name in selection.columns.column_names]
    if clash:
        raise UsageError(
            "a feature has the name of a column", found=clash[0], allowed="other names than id, caption"
        )
    columns = [vectors_of(feature, chosen.array, chosen.dtype, selection) for feature in read]
    report = on_progress or (lambda *_: None)
    export = Export(
        selection=selection,
        columns=columns,
        part_rows=chosen.part_rows,
        report=lambda done: report(done, len(selection)),
    )
    WRITERS[kind](export, path)
    return ExportSummary(
        kind=kind,
        name=path.name,
        rows=len(selection),
        columns={c.name: c.shape for c in columns},
        nbytes=nbytes(path),
        skipped=selection.skipped,
    )

"""Every task that a store has data for, with one head, as one report."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedstore.bench import TASKS
from embedstore.bench.report import check_place, task_path, with_outcomes, write_report
from embedstore.bench.setting import open_setting, open_stored
from embedstore.documents import BenchReports
from embedstore.errors import EncoderError, HeadError, UsageError
from embedstore.store import Store, open_store
from embedstore.store.selection import split_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from os import PathLike

    from embedstore.bench.measured import Measured

NO_HEAD = "it needs a head"
# What every task is given without being an option of its own.
_OWN = {"store", "head_dir", "split", "device", "seed", "on_progress"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Everything:
    """What each task gave, by its name, and why others gave nothing."""

    measured: Mapping[str, Measured]
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def document(self) -> BenchReports:
        """All reports as one document."""
        return BenchReports(
            reports={task: one.report for task, one in self.measured.items()}, left_out=dict(self.left_out)
        )


def measure_all(
    store: Store | str | PathLike[str],
    head_dir: str | PathLike[str] | None = None,
    *,
    split: str | None = "test",
    device: str = "auto",
    seed: int = 0,
    tasks: Sequence[str] | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
    **options: Any,
) -> Everything:
    """Run `tasks` (none: all there are, those of other packages too) that have what they need.

    options: any of the tasks' own (`rows`, `image`, `text`, `classes`, `text_encoder`, `language`, ...),
    given to each task that has it. A task that finds no data, no encoder or an option that does not fit it is
    left out with its reason. `on_progress(tasks done, tasks, next task)`.

    Raises what `open_setting` or `open_stored` does for the store, the head, the split and the rows
    themselves, `UnknownNameError` for a task that there is not, and `UsageError` for an option that none of
    the tasks has, and where every task is left out.
    """
    opened = store if isinstance(store, Store) else open_store(store)
    names = list(dict.fromkeys(tasks)) if tasks is not None else TASKS.names()
    functions = {name: TASKS.load(name) for name in names}
    taken = {name: inspect.signature(task).parameters for name, task in functions.items()}
    _check_options(options, taken)
    split_rows(opened, split)
    chosen: dict[str, Any] = {"device": device} | {x: options.get(x) for x in ("image", "text", "rows")}
    if head_dir is None:
        open_stored(opened, **chosen)
    else:
        open_setting(opened, head_dir, split=split, texts=False, **chosen)
    measured, left_out = {}, {}
    for done, (name, task) in enumerate(functions.items()):
        if on_progress is not None:
            on_progress(done, len(functions), name)
        if head_dir is None and taken[name]["head_dir"].default is inspect.Parameter.empty:
            left_out[name] = NO_HEAD
            continue
        own = {key: value for key, value in options.items() if key in taken[name] and value is not None}
        try:
            measured[name] = task(opened, head_dir, split=split, device=device, seed=seed, **own)
        except (UsageError, HeadError, EncoderError) as bad:
            left_out[name] = bad.problem
    if not measured:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise UsageError("no task has what it needs", found=reasons)
    return Everything(measured=measured, left_out=left_out)


def _check_options(options: Mapping[str, Any], taken: Mapping[str, Mapping[str, Any]]) -> None:
    """`UsageError` for an option that is given and would reach no task."""
    known = {"image", "text", "rows"}.union(*taken.values())
    unknown = [name for name, value in options.items() if value is not None and name not in known]
    if unknown:
        raise UsageError(
            "no task has such an option", found=", ".join(unknown), allowed=", ".join(sorted(known - _OWN))
        )


def write_everything(found: Everything, path: str | PathLike[str]) -> BenchReports:
    """Write all reports as one file, and what became of each task's rows beside it.

    The rows of a task are `NAME.TASK.outcomes.parquet`. Each file is whole or not there; the reports are
    written last, and returned as written. `UsageError` where the place cannot be written.
    """
    place = Path(path)
    check_place(place)
    reports = {task: with_outcomes(one, task_path(place, task)) for task, one in found.measured.items()}
    whole = found.document.model_copy(update={"reports": reports})
    write_report(whole, place)
    return whole

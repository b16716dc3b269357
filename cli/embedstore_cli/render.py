"""Everything that is printed for a person, and the JSON for a machine. All use of rich is here."""

from __future__ import annotations

import json
import textwrap
import time
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from embedstore.documents import NOT_SHARES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from embedstore.documents import BenchReport


# What is done sooner needs no bar.
QUIET_SECONDS = 2.0

_out = Console(highlight=False)
_err = Console(stderr=True, highlight=False)

# What moves a cursor or changes a terminal, and halves of characters, which no output can encode.
_UNSEEN = [*(set(range(0x20)) - {*b"\t\n"}), *range(0x7F, 0xA0), *range(0xD800, 0xE000)]
_SHOWN = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _UNSEEN}
_SHOWN_IN_JSON = {code: f"\\u{code:04x}" for code in _UNSEEN}


def _plain(message: object) -> str:
    return str(message).translate(_SHOWN)


def _text(message: object, style: str = "") -> Text:
    """As it is, control characters spelt out; no markup, no emojis by name. Captions come from strangers."""
    return Text(_plain(message), style)


def fail(message: str) -> None:
    """One clear message on standard error."""
    _err.print(Text.assemble(("error:", "bold red"), " ", _text(message)), soft_wrap=True)


def warn(message: str) -> None:
    """Something the user must see, on standard error."""
    _err.print(Text.assemble(("warning:", "bold yellow"), " ", _text(message)), soft_wrap=True)


def note(message: str) -> None:
    """Something worth knowing while a command runs, on standard error."""
    _err.print(_text(message), soft_wrap=True)


@contextmanager
def told_warnings() -> Iterator[None]:
    """Inside, what the library warns of looks like every other warning."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        warn(str(message))

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def warn_of_idle_gpu(device: str) -> None:
    """Say loudly that a GPU is here and not used."""
    from embedstore.encoders.device import unused_gpu

    message = unused_gpu(device)
    if message:
        warn(message)


def say(message: str = "") -> None:
    """A line of the result, on standard output."""
    _out.print(_text(message), soft_wrap=True)


def fold(message: str, *, indent: str = "  ") -> None:
    """A sentence of the result in lines of 80 columns, those after the first a little further in."""
    for line in textwrap.wrap(message, 80, subsequent_indent=indent):
        say(line)


def heading(message: str) -> None:
    """A heading line of the result."""
    _out.print(_text(message, "bold"), soft_wrap=True)


def print_json(value: Any) -> None:
    """A JSON document on standard output, and nothing else."""
    text = value.rstrip("\n") if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
    print(text.translate(_SHOWN_IN_JSON))  # noqa: T201


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, words: Sequence[str] = ()
) -> None:
    """A narrow table; columns after the first are figures, but for those named in `words`."""
    shown = Table(
        title=_text(title) if title else None,
        title_justify="left",
        title_style="bold",
        pad_edge=False,
        box=None,
    )
    for k, column in enumerate(columns):
        shown.add_column(
            _text(column), justify="left" if k == 0 or column in words else "right", overflow="fold"
        )
    for row in rows:
        shown.add_row(*(_text(cell) for cell in row))
    _out.print(shown)


def size(nbytes: float) -> str:
    """Bytes for a person, powers of 1000."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if nbytes < 1000 or unit == "TB":
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return ""


def count(number: float) -> str:
    """A large number for a person, three digits."""
    for unit in ("", "k", "M"):
        if number < 1000:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}G"


def duration(seconds: float) -> str:
    """Seconds for a person."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"


class Bars:
    """Progress bars by name, each with a rate of its own and the time that remains."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def update(self, name: str, *, done: float, total: float, note: str = "") -> None:
        """Set the state of the bar `name`, which is made when it is first named."""
        if name not in self._tasks:
            # Work that an earlier run did must not count into this run's rate.
            self._tasks[name] = self._progress.add_task(
                _plain(name), total=total, completed=int(done), note=""
            )
        self._progress.update(self._tasks[name], completed=done, total=total, note=_plain(note))

    def line(self, message: str) -> None:
        """A line above the bars, which stays."""
        self._progress.console.print(_text(message), soft_wrap=True)


@contextmanager
def bars(*, quiet: bool = False) -> Iterator[Bars]:
    """Progress bars on standard error; silent where nobody watches or `quiet`."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_err, disable=quiet) as progress:
        yield Bars(progress)


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each stage of a command, from its second second on."""
    begun = time.monotonic()
    with bars(quiet=quiet) as shown:

        def report(stage: str, done: int, total: int) -> None:
            if time.monotonic() - begun > QUIET_SECONDS:
                shown.update(stage, done=done, total=total)

        yield report


def report(measured: BenchReport) -> None:
    """A bench report as one table: figure, 95 % interval and chance, in percent."""
    rows = []
    for direction, figures in measured.metrics.items():
        for metric, figure in figures.items():
            chance = measured.chance.get(direction, {}).get(metric)
            share = metric not in NOT_SHARES
            rows.append(
                (
                    f"{direction.replace('_', ' ')} {metric}",
                    _number(figure.value, share=share),
                    f"{_number(figure.low, share=share)} – {_number(figure.high, share=share)}",
                    "" if chance is None else _number(chance, share=share),
                )
            )
    table(f"{measured.task}: {counted(measured)}", ("", "value", "95 % interval", "chance"), rows)
    remarks(measured)


def counted(measured: BenchReport) -> str:
    """How many images, texts and classes of which rows were measured."""
    numbers = ", ".join(
        f"{count} {what}"
        for count, what in (
            (measured.images, "images"),
            (measured.texts, "texts"),
            (measured.classes, "classes"),
        )
        if count
    )
    where = f"split {measured.split}" if measured.split else "all rows"
    return f"{numbers}, {where}" + (f", rows {measured.rows.name}" if measured.rows else "")


def remarks(measured: BenchReport) -> None:
    """What a reader of the figures must know, on standard error."""
    for note in measured.notes:
        warn(note)
    for reason, count in measured.skipped.items():
        if count:
            warn(f"{count} rows left out: {reason}")


def _number(value: float, *, share: bool) -> str:
    if share:
        return f"{100 * value:.1f} %"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"

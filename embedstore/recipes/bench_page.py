"""What bench tasks measured as one HTML page: for people who look before they believe."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedstore.bench.report import write_text
from embedstore.bench.retrieval import Retrieved
from embedstore.bench.setting import Setting
from embedstore.bench.zeroshot import Classified
from embedstore.model import FittedHead
from embedstore.recipes.chapters.figures import figure_blocks
from embedstore.recipes.chapters.learning import learning_chapter
from embedstore.recipes.chapters.projection import projection_chapter
from embedstore.recipes.chapters.retrieval import retrieval_blocks
from embedstore.recipes.chapters.settings import settings_sections, task_section
from embedstore.recipes.chapters.zeroshot import zeroshot_blocks
from embedstore.recipes.page.content import Block, Chapter, Headline, Section, measures_of
from embedstore.recipes.page.render import render_page

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from os import PathLike

    from embedstore.bench import Measured
    from embedstore.documents import BenchReport
    from embedstore.recipes.page.content import Measure

# What a task found -> what is shown of it beside its figures. A task that is not here has its figures.
BUILDERS: dict[type, Callable[[Any, BenchReport], list[Block]]] = {
    Retrieved: retrieval_blocks,
    Classified: zeroshot_blocks,
}
# Task -> its name and what is asked, for people.
TASKS = {
    "retrieval": ("Retrieval", "Which picture a caption finds, and which captions a picture finds."),
    "zeroshot": ("Zero-shot classes", "Each picture goes to the class whose prompts are nearest."),
    "multilingual": ("Languages", "The same pictures, asked for and named in each language."),
}
_HEADLINES, _FEW_TASKS = (3, 1), 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a page says that no report knows. `title` and `intro` none: made from the reports.

    commands: as they were typed; sections: settings of one's own.
    """

    title: str | None = None
    intro: str | None = None
    commands: tuple[str, ...] = ()
    sections: tuple[Section, ...] = ()


def write_bench_page(
    measured: Sequence[Measured],
    path: str | PathLike[str],
    *,
    told: Told | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> None:
    """`bench_page` to a file, whole or not at all; `UsageError` where the place cannot be written."""
    write_text(bench_page(measured, told=told, on_progress=on_progress), Path(path))


def bench_page(
    measured: Sequence[Measured],
    *,
    told: Told | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> str:
    """One HTML text that loads nothing: figures, plots, examples, mistakes, settings; at least one task.

    `on_progress(done, total, what)` is called before each chapter is made. `MissingExtraError` without the
    extra `demo`.
    """
    said, reports = told or Told(), [one.report for one in measured]
    setting = next((s for s in map(_setting, measured) if s is not None), None)
    makers: list[tuple[str, Callable[[], Chapter | None]]] = [
        (one.report.task, partial(_chapter, one)) for one in measured
    ]
    makers += [
        ("projection", lambda: _projection(measured)),
        ("learning", lambda: _learning(setting)),
    ]
    chapters = []
    for done, (what, make) in enumerate(makers):
        if on_progress is not None:
            on_progress(done, len(makers), what)
        chapters.append(make())
    if on_progress is not None:
        on_progress(len(makers), len(makers), "page")
    measures = [(report, measure) for report in reports for measure in measures_of(report)]
    against = [m.against_chance for _, m in measures]
    return render_page(
        "bench.html.j2",
        title=said.title or _title(reports),
        intro=said.intro or _intro(reports, setting),
        headlines=headlines(reports),
        known=len(against) - against.count(None),
        not_better=[
            Headline(task=_name(r), measure=m)
            for r, m in measures
            if m.against_chance in ("unclear", "worse")
        ],
        chapters=[chapter for chapter in chapters if chapter is not None],
        sections=[*settings_sections(reports[0], setting), *said.sections],
        commands=said.commands,
    )


def headlines(reports: Sequence[BenchReport]) -> list[Headline]:
    """The first figure of each direction, fewer of each where there are many tasks.

    Of a task that measures parts alone (languages, limits) the first figure of each direction's last part.
    """
    most = _HEADLINES[len(reports) > _FEW_TASKS]
    found = []
    for report in reports:
        first: dict[str, Measure] = {}
        for measure in measures_of(report):
            direction = measure.group.partition("/")[0]
            before = first.get(direction)
            if before is None or (before.group != measure.group and "/" in before.group):
                first[direction] = measure
        found += [Headline(task=_name(report), measure=m) for m in list(first.values())[:most]]
    return found


def _chapter(measured: Measured) -> Chapter:
    report = measured.report
    build = BUILDERS.get(type(measured.found))
    blocks = figure_blocks(report) + (build(measured.found, report) if build is not None else [])
    return Chapter(
        title=_name(report),
        lead=TASKS.get(report.task, ("", ""))[1],
        notes=report.notes,
        blocks=(*_side_by_side(blocks), Block(kind="facts", value=[task_section(report)])),
    )


def _side_by_side(blocks: Sequence[Block]) -> list[Block]:
    """The same with plots that need no title of their own in one grid."""
    merged: list[Block] = []
    for block in blocks:
        last = merged[-1] if merged else None
        if last is not None and last.kind == block.kind == "plots" and block.title is None:
            merged[-1] = replace(last, value=[*last.value, *block.value])
        else:
            merged.append(block)
    return merged


def _projection(measured: Sequence[Measured]) -> Chapter | None:
    """Of the first retrieval, else of the first classification."""
    for kind in (Retrieved, Classified):
        for one in measured:
            found = one.found
            if isinstance(found, kind):
                images = found.pairs.images if isinstance(found, Retrieved) else found.rows
                texts = found.pairs.texts[found.pairs.offsets[:-1]] if isinstance(found, Retrieved) else None
                return projection_chapter(found.setting, images, texts, seed=one.report.seed)
    return None


def _learning(setting: Setting | None) -> Chapter | None:
    head = None if setting is None else setting.embedder
    folder = head.folder if isinstance(head, FittedHead) else None
    return None if folder is None else learning_chapter(folder)


def _setting(measured: Measured) -> Setting | None:
    found = getattr(measured.found, "setting", None)
    return found if isinstance(found, Setting) else None


def _name(report: BenchReport) -> str:
    return TASKS[report.task][0] if report.task in TASKS else report.task


def _title(reports: Sequence[BenchReport]) -> str:
    what = "What the head is worth" if reports[0].head_sha256 else "What the features are worth"
    return what if len(reports) > 1 else f"{what}: {_name(reports[0]).lower()}"


def _intro(reports: Sequence[BenchReport], setting: Setting | None) -> str:
    """What was compared by what, in a sentence or two."""
    report = reports[0]
    cards = [card.model for card in (report.image_card, report.text_card) if card is not None]
    if setting is not None and isinstance(setting.embedder, FittedHead):
        config = setting.embedder.config
        by = f"A head {config.head!r}, {config.width} wide, on frozen features of {' and '.join(cards)}"
    else:
        by = f"Stored features of {' and '.join(cards)}" if cards else "Stored features"
    where = f"split {report.split}" if report.split else "every row"
    return f"{by}, measured on {where}, from cache: nothing was encoded again but prompts."

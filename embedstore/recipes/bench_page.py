"""What bench tasks measured as one HTML page: for people who look before they believe."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from embedstore.bench.languages.averages import AVERAGE
from embedstore.bench.long_text import Lengthened
from embedstore.bench.negatives import Contrasted
from embedstore.bench.report import write_text
from embedstore.bench.retrieval import Retrieved
from embedstore.bench.segment import Segmented
from embedstore.bench.setting import Setting
from embedstore.bench.zeroshot import Classified
from embedstore.documents import BenchReport, EaseReport, PolicyStudy, RatesReport
from embedstore.model import FittedHead
from embedstore.recipes.chapters.classes import class_bars
from embedstore.recipes.chapters.figures import figure_blocks
from embedstore.recipes.chapters.learning import learning_chapter
from embedstore.recipes.chapters.long_text import long_text_blocks
from embedstore.recipes.chapters.negatives import negatives_blocks
from embedstore.recipes.chapters.others import ease_blocks, ease_measures, rates_blocks
from embedstore.recipes.chapters.policies import policies_blocks
from embedstore.recipes.chapters.projection import projection_chapter
from embedstore.recipes.chapters.retrieval import retrieval_blocks
from embedstore.recipes.chapters.segment import segment_blocks
from embedstore.recipes.chapters.settings import settings_sections, task_section
from embedstore.recipes.chapters.zeroshot import zeroshot_blocks
from embedstore.recipes.page.content import Block, Chapter, Headline, Section, measures_of
from embedstore.recipes.page.render import render_page

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from os import PathLike

    from embedstore.bench import Measured
    from embedstore.recipes.chapters.settings import AnyReport
    from embedstore.recipes.page.content import Measure

OTHERS = (EaseReport, RatesReport, PolicyStudy)
Subject: TypeAlias = "Measured | EaseReport | RatesReport | PolicyStudy"

# What a task found -> what is shown of it beside its figures. A task that is not here has its figures.
BUILDERS: dict[type, Callable[[Any, BenchReport], list[Block]]] = {
    Retrieved: retrieval_blocks,
    Classified: zeroshot_blocks,
    Segmented: segment_blocks,
    Lengthened: long_text_blocks,
    Contrasted: negatives_blocks,
}


@dataclass(frozen=True, slots=True)
class Task:
    """The name of a task and what is asked, for people; the directions that headlines are of, none: all."""

    name: str
    lead: str
    headlines: tuple[str, ...] = ()


# In the order in which they stand on a page.
TASKS = {
    "retrieval": Task("Retrieval", "Which picture a caption finds, and which captions a picture finds."),
    "zeroshot": Task("Zero-shot classes", "Each picture goes to the class whose prompts are nearest."),
    "multilingual": Task("Languages", "The same retrieval and classes, a language at a time."),
    "segment": Task(
        "Segmentation",
        "Each patch goes to the class whose prompts are nearest; compared with the masks, pixel by pixel.",
        ("foreground", "with_background", "per_image"),
    ),
    "long-text": Task("Long texts", "Retrieval as the text encoder may read more and more of a long text."),
    "negatives": Task("Hard negatives", "How often a caption is nearer to its picture than an altered one."),
    "probe": Task("Probes", "What a classifier that is trained on labels makes of the vectors.", ("linear",)),
    "policies": Task("Storage policies", "What each policy saves, and what heads fitted from it lose."),
    "ease": Task(
        "Ease of alignment",
        "Below 0, the correlation says that encoders that see alike (a high CKA) are easier to align.",
    ),
    "cache": Task("Reading", "Rates of reading, beside the limits that were measured in turns with them."),
    "speed": Task("Speed", "Rates of work, beside the limits that were measured in turns with them."),
}
_HEADLINES, _FEW_TASKS = (3, 1), 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a page says that no report knows. `title` and `intro` none: made from the reports.

    commands: as they were typed; left_out: task that was not measured to the reason; sections: settings of
    one's own.
    """

    title: str | None = None
    intro: str | None = None
    commands: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    sections: tuple[Section, ...] = ()


def write_bench_page(
    measured: Sequence[Subject],
    path: str | PathLike[str],
    *,
    told: Told | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> None:
    """`bench_page` to a file, whole or not at all; `UsageError` where the place cannot be written."""
    write_text(bench_page(measured, told=told, on_progress=on_progress), Path(path))


def bench_page(
    measured: Sequence[Subject],
    *,
    told: Told | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> str:
    """One HTML text that loads nothing: figures, plots, examples, mistakes, settings; at least one task.

    `on_progress(done, total, what)` is called before each chapter is made. `MissingExtraError` without the
    extra `demo`.
    """
    places = {task: place for place, task in enumerate(TASKS)}
    measured = sorted(measured, key=lambda one: places.get(_task(_report(one)), len(places)))
    said, of_heads = told or Told(), [one for one in measured if not isinstance(one, OTHERS)]
    setting = next((s for s in map(_setting, of_heads) if s is not None), None)
    makers: list[tuple[str, Callable[[], Chapter | None]]] = [
        (_task(_report(one)), partial(_chapter, one)) for one in measured
    ]
    if of_heads:
        makers += [
            ("projection", lambda: _projection(of_heads)),
            ("learning", lambda: _learning(setting)),
        ]
    chapters = []
    for done, (what, make) in enumerate(makers):
        if on_progress is not None:
            on_progress(done, len(makers), what)
        chapters.append(make())
    if on_progress is not None:
        on_progress(len(makers), len(makers), "page")
    measures = [(_name(_report(one)), measure) for one in measured for measure in _measures(one)]
    against = [m.against_chance for _, m in measures]
    return render_page(
        "bench.html.j2",
        title=said.title or _title(measured),
        intro=said.intro or _intro(_report(measured[0]), setting),
        headlines=headlines(measured),
        known=len(against) - against.count(None),
        not_better=[
            Headline(task=name, measure=m) for name, m in measures if m.against_chance in ("unclear", "worse")
        ],
        chapters=[chapter for chapter in chapters if chapter is not None],
        sections=[*settings_sections(_report(measured[0]), setting), *said.sections],
        left_out={TASKS[task].name if task in TASKS else task: why for task, why in said.left_out.items()},
        commands=said.commands,
    )


def headlines(measured: Sequence[Subject]) -> list[Headline]:
    """The first figure of each direction, fewer of each where there are many tasks.

    Of a task that measures parts alone (languages, limits) the first figure of each direction's last part.
    """
    most = _HEADLINES[len(measured) > _FEW_TASKS]
    found = []
    for one in measured:
        report = _report(one)
        wanted = TASKS[_task(report)].headlines if _task(report) in TASKS else ()
        first: dict[str, Measure] = {}
        for measure in _measures(one):
            before = first.get(measure.direction)
            if before is None or _stands_for_more(measure, before):
                first[measure.direction] = measure
        chosen = [first[name] for name in wanted if name in first] or list(first.values())
        found += [Headline(task=_name(report), measure=m) for m in chosen[:most]]
    return found


def _stands_for_more(measure: Measure, before: Measure) -> bool:
    """Whether the group is the whole, or the average of parts, or else a later part."""
    if measure.group == before.group or not before.part:
        return False
    return not measure.part or measure.part == AVERAGE or before.part != AVERAGE


def _report(one: Subject) -> AnyReport:
    return one if isinstance(one, OTHERS) else one.report


def _measures(one: Subject) -> tuple[Measure, ...]:
    if isinstance(one, EaseReport):
        return ease_measures(one)
    return () if isinstance(one, OTHERS) else measures_of(one.report)


def _chapter(one: Subject) -> Chapter:
    if isinstance(one, OTHERS):
        task = TASKS[_task(one)]
        if isinstance(one, PolicyStudy):
            shown = policies_blocks(one)
        else:
            shown = ease_blocks(one) if isinstance(one, EaseReport) else rates_blocks(one)
        return Chapter(title=task.name, lead=task.lead, notes=one.notes, blocks=shown)
    report, build = one.report, BUILDERS.get(type(one.found))
    blocks = figure_blocks(report)
    if build is not None:
        blocks += build(one.found, report)
    elif report.per_class:
        blocks.append(class_bars(report.per_class, metric="Recall"))
    return Chapter(
        title=_name(report),
        lead=TASKS[report.task].lead if report.task in TASKS else "",
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


def _task(report: AnyReport) -> str:
    return "policies" if isinstance(report, PolicyStudy) else report.task


def _name(report: AnyReport) -> str:
    return TASKS[_task(report)].name if _task(report) in TASKS else _task(report)


def _title(measured: Sequence[Subject]) -> str:
    if all(isinstance(one, OTHERS) for one in measured):
        return "What was measured" if len(measured) > 1 else _name(_report(measured[0]))
    heads = any(not isinstance(one, OTHERS) and one.report.head_sha256 for one in measured)
    what = "What the head is worth" if heads else "What the features are worth"
    return what if len(measured) > 1 else f"{what}: {_name(_report(measured[0])).lower()}"


def _intro(report: AnyReport, setting: Setting | None) -> str:
    """What was compared by what, in a sentence or two."""
    if not isinstance(report, BenchReport):
        return ""
    cards = [card.model for card in (report.image_card, report.text_card) if card is not None]
    if setting is not None and isinstance(setting.embedder, FittedHead):
        config = setting.embedder.config
        by = f"A head {config.head!r}, {config.width} wide, on frozen features of {' and '.join(cards)}"
    else:
        by = f"Stored features of {' and '.join(cards)}" if cards else "Stored features"
    where = f"split {report.split}" if report.split else "every row"
    return f"{by}, measured on {where}, from cache: nothing was encoded again but prompts."

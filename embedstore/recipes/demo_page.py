"""The demo's page: what was measured, seen and set, gathered for the templates of `recipes/page`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedstore.recipes.examples import class_rows, image_queries, text_queries
from embedstore.recipes.page.content import Fact, Measure, Plot, Section, measures_of
from embedstore.recipes.page.plots import Lines, line_plot, recall_plot
from embedstore.recipes.page.render import render_page

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from embedstore.bench.retrieval import Retrieved
    from embedstore.bench.zeroshot import Classified
    from embedstore.documents import BenchReport, EncoderCard
    from embedstore.fit import FitResult

HEADLINES = (("text_to_image", "recall@1"), ("image_to_text", "recall@1"), ("image_to_class", "top-1"))
TEXT_QUERIES, IMAGE_QUERIES, PICTURES, CAPTIONS = 8, 4, 5, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoRun:
    """Everything the page tells about one run. times: what was done -> seconds."""

    commands: Sequence[str]
    fitted: FitResult
    retrieved: Retrieved
    retrieval: BenchReport
    classified: Classified
    zeroshot: BenchReport
    times: Mapping[str, float]
    seed: int


def demo_page(run: DemoRun) -> str:
    """The page as one HTML text."""
    measures = measures_of(run.retrieval) + measures_of(run.zeroshot)
    plan = run.retrieved.setting.store.plan
    return render_page(
        "demo.html.j2",
        title="embedstore demo: pictures and words of rendered scenes",
        intro=(
            f"Two frozen encoders that never saw each other read {plan.images} rendered scenes and their"
            f" captions once. A small head was then fitted on the cached tokens of {run.fitted.images} of"
            " them. Everything below was measured on scenes that it has not seen."
        ),
        measured=(
            f"{run.retrieval.images} images and {run.retrieval.texts} captions of split"
            f" {run.retrieval.split}; {run.zeroshot.classes} classes."
        ),
        headlines=headlines(measures),
        measures=measures,
        plots=[
            recall_plot(measures_of(run.retrieval), title="Recall, with 95 % intervals"),
            *learning_plots(run),
        ],
        text_queries=text_queries(run.retrieved, count=TEXT_QUERIES, answers=PICTURES, seed=run.seed),
        image_queries=image_queries(run.retrieved, count=IMAGE_QUERIES, answers=CAPTIONS, seed=run.seed),
        classes=class_rows(run.classified, run.zeroshot),
        settings=settings(run),
        commands=run.commands,
    )


def headlines(measures: Sequence[Measure]) -> list[Measure]:
    """The figures that stand on top."""
    return [m for wanted in HEADLINES for m in measures if (m.direction, m.metric) == wanted]


def learning_plots(run: DemoRun) -> list[Plot]:
    """Loss, temperature and, where there was a validation split, its recall, over the epochs of the log."""
    lines = read_log(run.fitted.out / "log.jsonl")
    epochs = [line["epoch"] for line in lines]
    plots = [
        line_plot(
            {"training loss": (epochs, [line["loss"] for line in lines])}, title="Loss", x="epoch", y="loss"
        ),
        line_plot(
            {"temperature": (epochs, [line["temperature"] for line in lines])},
            title="Temperature τ",
            x="epoch",
            y="τ",
        ),
    ]
    if lines and "recall@1" in lines[0]:
        chosen: Lines = {
            direction.replace("_", " "): (epochs, [100 * line["recall@1"][direction] for line in lines])
            for direction in lines[0]["recall@1"]
        }
        title = f"Recall@1 on split {run.fitted.config.val_split}; epoch {run.fitted.kept_epoch} was kept"
        plots.insert(1, line_plot(chosen, title=title, x="epoch", y="%"))
    return plots


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a fit's log that end an epoch."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["kind"] == "epoch"]


def settings(run: DemoRun) -> list[Section]:
    """Data, encoders, head, fit, and what it ran on."""
    plan, head, config = run.retrieved.setting.store.plan, run.fitted.head, run.fitted.config
    return [
        _section(
            "Data",
            source=", ".join(f"{name} {value}" for name, value in plan.source.items()),
            images=plan.images,
            splits=_counts(plan.splits),
            texts=plan.texts,
            languages=_counts(plan.languages),
            roles=_counts(plan.roles),
        ),
        _encoder("Image encoder", head.image_card, run.retrieved.setting.image.header.policy),
        _encoder("Text encoder", head.text_card, run.retrieved.setting.text.header.policy),
        _section(
            "Head",
            kind=head.head,
            image=f"patches {head.image_local}, CLS {head.image_cls}, {head.image_pooling} pooling",
            text=f"tokens {head.text_token}, mean {head.text_global}",
            joint_width=head.width,
            parameters=f"{run.fitted.parameters:,}",
            sha256=str(run.retrieval.head_sha256)[:16],
        ),
        _section(
            "Fit",
            images=run.fitted.images,
            captions=f"one a picture and epoch, drawn; language {config.language}, role {config.role}",
            epochs=f"{config.epochs}, kept: {run.fitted.kept_epoch}",
            batch_size=config.batch_size,
            lr=f"{config.lr:g}, warm-up {config.warmup_epochs:g} epochs, cosine to {config.min_lr:g}",
            weight_decay=config.weight_decay,
            dropout=config.dropout,
            final_temperature=f"{head.temperature:.4f}",
        ),
        _section(
            "This run",
            device=run.fitted.device,
            seed=run.seed,
            **{what: f"{seconds:.0f} s" for what, seconds in run.times.items()},
            **run.retrieval.versions,
            prompts=", ".join(f"“{template}”" for template in run.zeroshot.templates),
            left_out=_counts(run.retrieval.skipped | run.zeroshot.skipped) or "nothing",
            notes="; ".join(dict.fromkeys(run.retrieval.notes + run.zeroshot.notes)) or "none",
        ),
    ]


def _section(title: str, **facts: object) -> Section:
    return Section(
        title=title, facts=tuple(Fact(name=n.replace("_", " "), value=str(v)) for n, v in facts.items())
    )


def _encoder(title: str, card: EncoderCard, policy: str) -> Section:
    size = {"picture": " × ".join(map(str, card.processor.size)) + " pixels"} if card.processor else {}
    grid = {"patches": " × ".join(map(str, card.grid))} if card.grid else {}
    limit = {"token_limit": card.tokenizer.max_length} if card.tokenizer else {}
    return _section(
        title,
        model=card.model,
        library=card.library,
        architecture=card.architecture,
        width=card.width,
        **size,
        **grid,
        **limit,
        stored_as=policy,
        weights=card.weights_sha256[:16],
    )


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())

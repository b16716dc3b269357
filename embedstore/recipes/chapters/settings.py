"""What a page's figures depend on: data, encoders, head, fit, and how each task was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from embedstore.documents import (
    BenchReport,
    EaseReport,
    FitConfig,
    HeadConfig,
    PolicyStudy,
    RatesReport,
    load_document,
)
from embedstore.fit.files import FIT
from embedstore.model import FittedHead
from embedstore.recipes.page.content import Section

if TYPE_CHECKING:
    from collections.abc import Container, Mapping
    from pathlib import Path

    from embedstore.bench.setting import Setting
    from embedstore.documents import EncoderCard

AnyReport: TypeAlias = BenchReport | EaseReport | RatesReport | PolicyStudy


def task_section(report: BenchReport) -> Section:
    """What was measured, and how."""
    rows = report.rows
    counted = {"images": report.images, "texts": report.texts, "classes": report.classes}
    return Section.of(
        "What was measured",
        **{name: f"{count:,}" for name, count in counted.items() if count},
        split=report.split or "every row",
        rows=None if rows is None else f"{rows.name}, sha256 {rows.sha256}",
        language=report.language,
        role=report.role,
        prompts=", ".join(f"“{template}”" for template in report.templates[:5])
        + (f" and {len(report.templates) - 5} more" if len(report.templates) > 5 else "")
        or None,
        options=_named(report.options),
        left_out=_counts(report.skipped) or "nothing",
        seed=report.seed,
    )


def settings_sections(report: AnyReport, setting: Setting | None) -> list[Section]:
    """The data, encoders, head and fit behind a report; without an open store what the report knows."""
    sections = [_data(report, setting)]
    if isinstance(report, BenchReport | PolicyStudy):
        image = None if setting is None else setting.image.header.policy
        text = None if setting is None or setting.text_feature is None else setting.text.header.policy
        for title, card, policy in (
            ("Image encoder", report.image_card, image),
            ("Text encoder", report.text_card, text),
        ):
            sections += [] if card is None else [_encoder(title, card, policy)]
        sections += (
            _head_sections(report, setting)
            if isinstance(report, BenchReport)
            else [_fit_section("Fits", report.config)]
        )
    else:
        sections += [_encoder(f"Encoder of {name}", card, None) for name, card in report.cards.items()]
    return [*sections, Section.of("Measured with", device=report.device, **report.versions)]


def _head_sections(report: BenchReport, setting: Setting | None) -> list[Section]:
    head = None if setting is None else setting.embedder
    if isinstance(head, FittedHead):
        parameters = sum(p.numel() for p in head.module.parameters())
        return [_head(head.config, head.sha256, parameters), *_fit(head.folder)]
    return [] if report.head_sha256 is None else [Section.of("Head", sha256=report.head_sha256)]


def _data(report: AnyReport, setting: Setting | None) -> Section:
    if setting is None:
        return Section.of("Data", store_fingerprint=report.store_fingerprint or "none: toy worlds")
    plan = setting.store.plan
    return Section.of(
        "Data",
        source=", ".join(f"{name} {value}" for name, value in plan.source.items()),
        images=f"{plan.images:,}",
        splits=_counts(plan.splits) or None,
        texts=f"{plan.texts:,}",
        languages=_counts(plan.languages) or None,
        roles=_counts(plan.roles) or None,
        store_fingerprint=report.store_fingerprint,
    )


def _encoder(title: str, card: EncoderCard, policy: str | None) -> Section:
    return Section.of(
        title,
        model=card.model,
        revision=card.revision,
        library=card.library,
        architecture=card.architecture,
        width=card.width,
        picture=" × ".join(map(str, card.processor.size)) + " pixels" if card.processor else None,
        patches=" × ".join(map(str, card.grid)) if card.grid else None,
        token_limit=card.tokenizer.max_length if card.tokenizer else None,
        stored_as=policy,
        weights=card.weights_sha256,
        card=card.fingerprint,
    )


def _head(head: HeadConfig, sha256: str, parameters: int) -> Section:
    return Section.of(
        "Head",
        kind=head.head,
        joint_width=head.width,
        parameters=f"{parameters:,}",
        image=f"patches {head.image_local}, CLS {head.image_cls}, {head.image_pooling} pooling",
        text=f"tokens {head.text_token}, {head.text_pooling} {head.text_global}",
        options=_named(head.options),
        fitted_on=f"split {head.trained_on}" if head.trained_on else "every image",
        chosen_on=(head.chosen_on or "held-out images") if head.chosen else "nothing: the last epoch",
        final_temperature=f"{head.temperature:.4f}",
        sha256=sha256,
    )


def _fit(folder: Path | None) -> list[Section]:
    """The fit's record, where it lies beside the head."""
    if folder is None or not (folder / FIT).is_file():
        return []
    return [_fit_section("Fit", load_document(FitConfig, folder / FIT), without=HeadConfig.model_fields)]


def _fit_section(title: str, fit: FitConfig, *, without: Container[str] = ()) -> Section:
    """Every option of a fit that is set, but those that another section tells."""
    told = {name: value for name, value in fit.model_dump(mode="json").items() if name not in without}
    named = {name: _named(value) if isinstance(value, dict) else value for name, value in told.items()}
    return Section.of(title, **{k: v for k, v in named.items() if v is not None and v is not False})


def _named(options: Mapping[str, object]) -> str | None:
    return ", ".join(f"{name}={value}" for name, value in options.items()) or None


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())

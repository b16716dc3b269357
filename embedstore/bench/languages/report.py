"""The report of a multilingual task: a group for each language, and for the averages over them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embedstore.bench.classes import sha256_of
from embedstore.bench.figures import class_chance, class_figures, retrieval_chance
from embedstore.bench.languages.averages import (
    average_of_classes,
    average_of_ranks,
    averaged_languages,
    mean_chance,
)
from embedstore.bench.outcomes import figures_of
from embedstore.bench.versions import of_encoder
from embedstore.documents import BenchReport

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from embedstore.bench.multilingual import Languages
    from embedstore.bench.outcomes import Outcomes
    from embedstore.bench.rows import Pairs
    from embedstore.documents import Figure


def multilingual_report(
    found: Languages,
    outcomes: Mapping[str, Outcomes],
    *,
    split: str | None,
    role: str | None,
    seed: int,
) -> BenchReport:
    """The figures of each language and their averages, with intervals and chance."""
    metrics: dict[str, dict[str, Figure]] = {}
    chance: dict[str, dict[str, float]] = {}
    for direction in ("text_to_image", "image_to_text") if found.retrieved else ():
        tallies = {}
        for language, own in found.retrieved.items():
            group = f"{direction}/{language}"
            tallies[language] = own.tallies[direction]
            metrics[group] = figures_of(outcomes[group], seed=seed)
            chance[group] = _retrieval_chance(own.pairs, direction)
        for name, chosen in averaged_languages(tallies).items():
            group = f"{direction}/{name}"
            metrics[group] = average_of_ranks([tallies[language] for language in chosen], seed=seed)
            chance[group] = mean_chance([chance[f"{direction}/{x}"] for x in chosen], metrics[group])
    for language, one in found.classified.items():
        group = f"image_to_class/{language}"
        metrics[group], _ = class_figures(one.ranks, one.labels, len(one.classes), seed=seed)
        chance[group] = class_chance(len(one.classes))
    for name, chosen in averaged_languages(found.classified).items():
        group = f"image_to_class/{name}"
        several = [found.classified[language] for language in chosen]
        metrics[group] = average_of_classes([x.ranks for x in several], several[0].labels, seed=seed)
        chance[group] = class_chance(len(several[0].classes))
    return _report(found, metrics, chance, split=split, role=role, seed=seed)


def _retrieval_chance(pairs: Pairs, direction: str) -> dict[str, float]:
    if direction == "text_to_image":
        return retrieval_chance(np.ones_like(pairs.texts), len(pairs.images))
    return retrieval_chance(pairs.counts, len(pairs.texts))


def _report(
    found: Languages,
    metrics: dict[str, dict[str, Figure]],
    chance: dict[str, dict[str, float]],
    *,
    split: str | None,
    role: str | None,
    seed: int,
) -> BenchReport:
    retrieved, classified = found.retrieved, found.classified
    rows = [own.pairs.images for own in retrieved.values()] + [own.rows for own in classified.values()]
    own_notes = {
        language: [note for note in own.notes if note not in found.setting.notes]
        for language, own in classified.items()
    }
    skipped = {language: dict(own.pairs.skipped) for language, own in retrieved.items()}
    for language, own in classified.items():
        skipped[language] = {**skipped.get(language, {}), **own.skipped}
    options: dict[str, str | int | float | bool] = {"languages": ",".join(skipped)}
    if classified:
        first = next(iter(classified.values()))
        options |= {
            "convention": first.options["convention"],
            "prompts": sum(len(own) for each in classified.values() for own in each.prompts),
            "words_sha256": sha256_of(
                {x: [[c.label, c.words] for c in own.classes] for x, own in classified.items()}
            ),
        }
    return BenchReport(
        task="multilingual",
        metrics=metrics,
        chance=chance,
        images=len(np.unique(np.concatenate(rows))),
        texts=sum(len(own.pairs.texts) for own in retrieved.values()),
        classes=max((len(own.classes) for own in classified.values()), default=0),
        skipped=_once(skipped),
        split=split,
        role=role,
        templates=tuple(
            f"{language}: {template}" for language, own in classified.items() for template in own.templates
        ),
        options=options,
        notes=(*found.setting.notes, *_noted(own_notes)),
        seed=seed,
        **found.setting.report_fields(*(of_encoder(found.setting.text_card) if classified else ())),
    )


def _once(skipped: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Reasons that left out as many rows in every language once, the others with their language."""
    found: dict[str, int] = {}
    for reason in dict.fromkeys(reason for own in skipped.values() for reason in own):
        counts = {language: own[reason] for language, own in skipped.items() if reason in own}
        if len(counts) == len(skipped) and len(set(counts.values())) == 1:
            found[reason] = next(iter(counts.values()))
        else:
            found |= {f"{reason} ({language})": count for language, count in counts.items()}
    return {reason: count for reason, count in found.items() if count}


def _noted(notes: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """The same note of several languages once, with their names."""
    of: dict[str, list[str]] = {}
    for language, own in notes.items():
        for note in own:
            of.setdefault(note, []).append(language)
    return tuple(f"{note} ({', '.join(languages)})" for note, languages in of.items())

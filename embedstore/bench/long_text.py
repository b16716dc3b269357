"""Long text: what retrieval gains as more tokens of a text are read, one feature for each limit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from embedstore.bench.figures import retrieval_chance
from embedstore.bench.measured import Measured, report_of, silent
from embedstore.bench.outcomes import Outcomes, figures_of, pair_outcomes
from embedstore.bench.ranking import Ranking, ranking
from embedstore.bench.rows import Pairs, select_pairs
from embedstore.bench.setting import Setting, open_setting
from embedstore.documents import BenchReport
from embedstore.encoders.device import pick_device
from embedstore.errors import UsageError
from embedstore.model import FittedHead, load_head
from embedstore.store import Store, open_store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from embedstore.bench.measured import Progress
    from embedstore.documents import EncoderCard
    from embedstore.shapes import IntArray
    from embedstore.store import Feature

LIMIT = "tokenizer.max_length"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengthened:
    """Everything of one task: by rising limit the features, the ranks, and how many texts were cut.

    The last of `cut` counts the texts that fill the longest limit: these may have been cut, or just fit.
    """

    setting: Setting
    pairs: Pairs
    features: tuple[Feature, ...]
    ranks: tuple[Ranking, ...]
    cut: tuple[int, ...]

    @property
    def limits(self) -> tuple[int, ...]:
        """Tokens at most, rising."""
        return tuple(limit_of(feature) for feature in self.features)


def measure_long_text(
    store: Store | str | PathLike[str],
    head_dir: str | PathLike[str],
    *,
    image: str | None = None,
    texts: Sequence[str] | None = None,
    split: str | None = "test",
    language: str = "en",
    role: str = "long",
    device: str = "auto",
    seed: int = 0,
    rows: IntArray | str | None = None,
    on_progress: Progress | None = None,
) -> Measured:
    """Retrieval of one role at several limits of the tokenizer, as groups `text_to_image/32`, ….

    Texts are those that were encoded at each limit, never cached tokens cut shorter: a bidirectional encoder
    gives other tokens for a shorter text. texts: the text features, in any order; none: every complete one
    whose card differs from the one that the head was fitted for in `max_length` alone. The head is the same
    for all limits. The pairs are those whose text can be read at every limit; figures and ranks as those of
    `measure_retrieval`. `on_progress(what, done, total)`. Raises as that, `UsageError` where there are not
    two limits or one stands twice, `HeadError` for features that differ in more.
    """
    opened = store if isinstance(store, Store) else open_store(store)
    head = load_head(head_dir, device=pick_device(device))
    features = text_features(opened, head, texts)
    own = next((f for f in features if not head.config.text_card.plain.differences(f.card)), features[-1])
    setting = open_setting(
        opened, at_limit(head, own), split=split, device=device, image=image, text=own.name, rows=rows
    )
    found = lengthen(setting, features, split=split, language=language, role=role, on_progress=on_progress)
    outcomes = long_text_outcomes(found)
    report = long_text_report(found, outcomes, split=split, language=language, role=role, seed=seed)
    return Measured(report=report, found=found, outcomes=outcomes)


bench_long_text = report_of(measure_long_text)


def text_features(store: Store, head: FittedHead, names: Sequence[str] | None) -> tuple[Feature, ...]:
    """The text features of the head's encoder by rising limit: those named, or all that are complete.

    Where no names are given and a limit stands twice, the feature of the head's own name or else the first by
    name is taken.
    """
    if names is None:
        names = list(_of_other_limits(store, head).values())
    features = tuple(sorted((store[name] for name in names), key=limit_of))
    for feature in features:
        at_limit(head, feature).check_text(feature)
    limits = [limit_of(feature) for feature in features]
    if len(set(limits)) < len(limits):
        raise UsageError(
            "a limit stands twice", where="--text", found=limits, todo="name one feature a limit"
        )
    if len(limits) < 2:
        raise UsageError(
            "a curve needs features of two limits at least",
            where=store.path.name,
            found=", ".join(f"{f.name} ({limit_of(f)} tokens)" for f in features) or "none",
            todo="add them: embedstore encode SOURCE STORE --text-encoder 'NAME=SPEC?max_length=32,64,128'",
        )
    return features


def _of_other_limits(store: Store, head: FittedHead) -> dict[int, str]:
    """Limit to the name of a complete feature whose card differs in nothing else."""
    found: dict[int, str] = {}
    for name in sorted(store.features(), key=lambda name: (name != head.config.text_feature, name)):
        card = store.header(name).card
        if card.tokenizer is None or not store.complete(name):
            continue
        if set(head.config.text_card.plain.differences(card)) <= {LIMIT}:
            found.setdefault(card.tokenizer.max_length, name)
    return found


def limit_of(feature: Feature) -> int:
    """Tokens at most of a text feature; `UsageError` where its card knows no tokenizer."""
    if feature.card.tokenizer is None:
        raise UsageError("the card of this feature knows no limit of tokens", where=feature.name)
    return feature.card.tokenizer.max_length


def at_limit(head: FittedHead, feature: Feature) -> FittedHead:
    """The same head for texts that its own encoder has cut at the limit of another feature."""
    card: EncoderCard = head.config.text_card
    if card.tokenizer is None:
        raise UsageError("the head was fitted for texts without a limit of tokens", where=feature.name)
    if card.tokenizer.max_length == limit_of(feature):
        return head
    tokenizer = card.tokenizer.model_copy(update={"max_length": limit_of(feature)})
    # The probe is of texts that this limit cuts elsewhere, so it tells nothing here.
    card = card.model_copy(update={"tokenizer": tokenizer, "probe": None})
    config = head.config.model_copy(update={"text_card": card})
    return FittedHead(
        config=config, module=head.module, sha256=head.sha256, device=head.device, folder=head.folder
    )


def lengthen(
    setting: Setting,
    features: Sequence[Feature],
    *,
    split: str | None,
    language: str,
    role: str,
    on_progress: Progress | None = None,
) -> Lengthened:
    """Select pairs that can be read at every limit, embed and rank; texts of one limit are held at a time."""
    pairs = select_pairs(
        setting.store,
        setting.image,
        features[0],
        split=split,
        language=language,
        role=role,
        rows=setting.rows,
        texts=setting.texts,
        also=features[1:],
    )
    told = on_progress or silent
    images = setting.embed_images(pairs.images, on_progress=partial(told, "images"))
    ranks: list[Ranking] = []
    for feature in features:
        told("limits", len(ranks), len(features))
        texts = at_limit(setting.head, feature).embed_texts(feature, pairs.texts)
        ranks.append(ranking(images, texts, pairs.image_of, device=str(setting.head.device)))
    told("limits", len(ranks), len(features))
    lengths = [feature.lengths()[pairs.texts] for feature in features]
    cut = [int((own < lengths[-1]).sum()) for own in lengths[:-1]]
    filled = int((lengths[-1] >= limit_of(features[-1])).sum())
    return Lengthened(
        setting=setting, pairs=pairs, features=tuple(features), ranks=tuple(ranks), cut=(*cut, filled)
    )


def long_text_report(
    found: Lengthened,
    outcomes: Mapping[str, Outcomes],
    *,
    split: str | None,
    language: str,
    role: str,
    seed: int,
) -> BenchReport:
    """The figures of every limit, with intervals and chance."""
    pairs = found.pairs
    chance = {
        "text_to_image": retrieval_chance(np.ones_like(pairs.texts), len(pairs.images)),
        "image_to_text": retrieval_chance(pairs.counts, len(pairs.texts)),
    }
    counts = [f"{limit} tokens: {n}" for limit, n in zip(found.limits, found.cut, strict=True)]
    notes = [
        f"texts that were cut, of {len(pairs.texts)}: {', '.join(counts[:-1])}",
        f"texts that fill all {found.limits[-1]} tokens, so may have been cut: {found.cut[-1]}",
    ]
    return BenchReport(
        task="long-text",
        metrics={group: figures_of(own, seed=seed) for group, own in outcomes.items()},
        chance={group: chance[group.partition("/")[0]] for group in outcomes},
        images=len(pairs.images),
        texts=len(pairs.texts),
        skipped={reason: count for reason, count in pairs.skipped.items() if count},
        split=split,
        language=language,
        role=role,
        options={f"cut at {limit}": n for limit, n in zip(found.limits, found.cut, strict=True)},
        notes=(*found.setting.notes, *notes),
        seed=seed,
        **found.setting.report_fields(),
    )


def long_text_outcomes(found: Lengthened) -> dict[str, Outcomes]:
    """What became of each text and of each image at every limit, one direction after the other."""
    limits = {
        limit: pair_outcomes(
            found.setting.store,
            found.pairs,
            {"text_to_image": ranks.text_to_image, "image_to_text": ranks.image_to_text},
        )
        for limit, ranks in zip(found.limits, found.ranks, strict=True)
    }
    return {
        f"{way}/{limit}": both[way]
        for way in ("text_to_image", "image_to_text")
        for limit, both in limits.items()
    }

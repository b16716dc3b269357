"""Retrieval and zero-shot classification, a language at a time, with the average that papers report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from embedstore.bench.classes import class_prompts
from embedstore.bench.languages.averages import Tally
from embedstore.bench.languages.files import chosen_languages, class_names, templates_of
from embedstore.bench.languages.outcomes import multilingual_outcomes
from embedstore.bench.languages.report import multilingual_report
from embedstore.bench.measured import Measured, report_of
from embedstore.bench.prompts import class_vectors, speaker_of
from embedstore.bench.ranking import ranking
from embedstore.bench.rows import select_labelled, select_pairs
from embedstore.bench.setting import Setting, open_setting, open_stored
from embedstore.bench.zeroshot import Classified, open_for_prompts, ranked
from embedstore.store import Store, open_store
from embedstore.store.selection import equal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from os import PathLike

    from embedstore.bench.classes import ClassPrompts
    from embedstore.bench.languages.files import LanguageClasses, LanguageTemplates
    from embedstore.bench.ranking import Ranking
    from embedstore.bench.rows import Labelled, Pairs
    from embedstore.shapes import Float32Array, IntArray

    Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageRanks:
    """Retrieval in one language: its pairs, and the ranks both ways."""

    pairs: Pairs
    ranks: Ranking

    @property
    def tallies(self) -> dict[str, Tally]:
        """Direction -> the image of each query, and its rank."""
        images = self.pairs.images
        return {
            "text_to_image": Tally(units=images[self.pairs.image_of], ranks=self.ranks.text_to_image),
            "image_to_text": Tally(units=images, ranks=self.ranks.image_to_text),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Languages:
    """Everything of one multilingual task, by language: what was retrieved, and what was classified."""

    setting: Setting
    retrieved: Mapping[str, LanguageRanks]
    classified: Mapping[str, Classified]


def measure_multilingual(
    store: Store | str | PathLike[str],
    head_dir: str | PathLike[str] | None = None,
    *,
    image: str | None = None,
    text: str | None = None,
    split: str | None = "test",
    languages: Sequence[str] | None = None,
    language_classes: LanguageClasses | None = None,
    language_templates: LanguageTemplates | None = None,
    convention: str = "clip-benchmark",
    text_encoder: str | None = None,
    role: str = "caption",
    device: str = "auto",
    seed: int = 0,
    rows: IntArray | str | None = None,
    on_progress: Progress | None = None,
) -> Measured:
    """`measure_retrieval` in each language of the texts, `measure_zeroshot` in each of `language_classes`.

    Groups are `text_to_image/de`, `image_to_text/de`, `image_to_class/de`, and `.../average`: the mean over
    the languages of each share, English among them (freeze-align's Table 6), and where English is one of
    several `.../average-without-en` (its Tables A.6 and A.7). Intervals of averages are bootstrapped over
    images, all languages of an image together, for mean-per-class within each class.

    languages narrows both and gives their order; without it there must be two. language_classes: language ->
    label -> words, the same labels in each, or language -> words in the order of the store's classes.
    language_templates: language -> lines with `{}`; without them the words alone. The rest as of the two
    tasks.
    """
    opened = store if isinstance(store, Store) else open_store(store)
    names = class_names(opened, language_classes) if language_classes else {}
    of_texts, of_classes = chosen_languages(
        languages, of_texts=_languages(opened, role), of_classes=tuple(names)
    )
    forms = templates_of(language_templates, of_classes)
    asked = {
        language: class_prompts(opened, classes=names[language], templates=forms[language])
        for language in of_classes
    }
    setting = (
        open_with_texts(opened, head_dir, image=image, text=text, split=split, device=device, rows=rows)
        if of_texts
        else open_for_prompts(
            opened,
            head_dir,
            image=image,
            text=text,
            text_encoder=text_encoder,
            split=split,
            device=device,
            rows=rows,
        )
    )
    pairs = {
        language: select_pairs(
            opened,
            setting.image,
            setting.text,
            split=split,
            language=language,
            role=role,
            rows=setting.rows,
            texts=setting.texts,
        )
        for language in of_texts
    }
    labelled = {
        language: select_labelled(opened, setting.image, own.classes, split=split, rows=setting.rows)
        for language, own in asked.items()
    }
    found = _found(
        setting,
        pairs,
        labelled,
        asked,
        convention=convention,
        text_encoder=text_encoder,
        told=on_progress or (lambda *_: None),
    )
    outcomes = multilingual_outcomes(found)
    report = multilingual_report(found, outcomes, split=split, role=role if of_texts else None, seed=seed)
    return Measured(report=report, found=found, outcomes=outcomes)


bench_multilingual = report_of(measure_multilingual)


def open_with_texts(
    store: Store,
    head_dir: str | PathLike[str] | None,
    *,
    image: str | None,
    text: str | None,
    split: str | None,
    device: str,
    rows: IntArray | str | None,
) -> Setting:
    """A setting of a head, or of two stored features."""
    if head_dir is None:
        return open_stored(store, image=image, text=text, device=device, rows=rows)
    return open_setting(store, head_dir, split=split, image=image, text=text, device=device, rows=rows)


def _languages(store: Store, role: str) -> tuple[str, ...]:
    """Languages of the texts of a role, sorted."""
    table = store.texts(["role", "language"])
    of_role = table["language"].filter(equal(table["role"], role))
    return tuple(sorted(pc.unique(of_role.drop_null()).to_pylist()))


def _found(
    setting: Setting,
    pairs: Mapping[str, Pairs],
    labelled: Mapping[str, Labelled],
    asked: Mapping[str, ClassPrompts],
    *,
    convention: str,
    text_encoder: str | None,
    told: Progress,
) -> Languages:
    """Each image once through the head, whatever the languages."""
    every = [own.images for own in pairs.values()] + [own.rows for own in labelled.values()]
    rows = np.unique(np.concatenate(every))
    images = setting.embed_images(rows, on_progress=lambda done, total: told("images", done, total))

    def of(own: IntArray) -> Float32Array:
        return images[np.searchsorted(rows, own)]

    retrieved = {}
    for at, (language, own) in enumerate(pairs.items()):
        retrieved[language] = _retrieved(setting, own, of(own.images))
        told("languages", at + 1, len(pairs))
    if not asked:
        return Languages(setting=setting, retrieved=retrieved, classified={})
    speaker = speaker_of(setting, text_encoder)
    classified = {}
    for at, (language, prompts) in enumerate(asked.items()):
        here = labelled[language]
        vectors, cut = class_vectors(speaker, prompts.prompts, convention=convention)
        classified[language] = ranked(
            setting, prompts, here, of(here.rows), vectors, cut=cut, convention=convention
        )
        told("class names", at + 1, len(asked))
    return Languages(setting=setting, retrieved=retrieved, classified=classified)


def _retrieved(setting: Setting, pairs: Pairs, images: Float32Array) -> LanguageRanks:
    texts = setting.embedder.embed_texts(setting.text, pairs.texts)
    ranks = ranking(images, texts, pairs.image_of, device=str(setting.embedder.device))
    return LanguageRanks(pairs=pairs, ranks=ranks)

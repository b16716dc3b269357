"""The rates of all parts of the work on one store, in one report."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import torch

from embedstore.bench.timing import REPEATS, measure
from embedstore.documents import RatesReport
from embedstore.encode import EncodeOptions
from embedstore.encoders import encoder_for_card
from embedstore.encoders.device import device_kind, pick_device
from embedstore.errors import EncoderError, UsageError
from embedstore.recipes.speed.encoding import image_works, text_works
from embedstore.recipes.speed.fitting import fit_works
from embedstore.recipes.speed.samples import picture_samples, source_samples, text_samples
from embedstore.store import Store, open_store
from embedstore.store.pair_rows import choose_features

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from os import PathLike

    from embedstore.documents import EncoderCard, Rate, Table
    from embedstore.recipes.speed.samples import Samples
    from embedstore.store import Feature

MakeSamples: TypeAlias = "Callable[[int], Samples]"
Tell: TypeAlias = "Callable[[str, float, int], None]"
Part: TypeAlias = Literal["images", "texts", "fit"]
PARTS: tuple[Part, ...] = get_args(Part)
# Batches of pictures that encoders are timed on, and texts for each of these pictures.
_BATCHES = 4
_TEXTS_OF_PICTURE = 4


def measure_speed(
    store: Store | str | PathLike[str],
    *,
    parts: Sequence[Part] = PARTS,
    image: str | None = None,
    text: str | None = None,
    image_encoder: str | None = None,
    text_encoder: str | None = None,
    source: str | None = None,
    encode_batch: int | None = None,
    fit_batch: int | None = None,
    language: str = "en",
    device: str = "auto",
    repeats: int = REPEATS,
    seed: int = 0,
    progress: Callable[[str, float, int], None] | None = None,
) -> RatesReport:
    """Rates of encoding pictures and texts and of fitting the default head, on this machine.

    Each stage alone, all stages as the verb runs them, and the limits: the bare forward pass, and products of
    large matrices that cost as much. `image` and `text` name features, by default the first of an encoder;
    the encoders that made them are looked for where they are remembered, or given as SPEC. Pictures are those
    of `source`, or the store's thumbnails, or painted; the report says which. Batches are those of `encode`
    and `fit` unless given.

    A part that this store or machine cannot do is left out with a note; `UsageError` where all are, and for
    features, parts and encoders that are named and are not there. progress: called with the part's name,
    parts done, and of how many.
    """
    wrong = [part for part in parts if part not in PARTS]
    if wrong or not parts:
        raise UsageError("no such part", found=", ".join(wrong) or None, allowed=", ".join(PARTS))
    opened = store if isinstance(store, Store) else open_store(store)

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        run = _Run(
            store=opened,
            device=pick_device(device),
            options=EncodeOptions(device=device, batch_size=encode_batch),
            folder=folder,
            repeats=repeats,
            seed=seed,
        )

        def pictures(batch: int) -> Samples:
            if source is not None:
                return source_samples(source, limit=_BATCHES * batch, seed=seed)
            return picture_samples(opened, folder / "pictures", count=_BATCHES * batch, seed=seed)

        def texts(batch: int) -> Samples:
            count = _TEXTS_OF_PICTURE * _BATCHES * batch
            return text_samples(opened, folder / "texts.jsonl", count=count, seed=seed)

        for part, run.on_share in _in_turn(parts, progress or (lambda *_: None)):
            if part == "images":
                run.encode("images", image, image_encoder, samples=pictures)
            elif part == "texts":
                run.encode("texts", text, text_encoder, samples=texts)
            else:
                run.fit(image, text, batch_size=fit_batch, language=language)
    if not run.rates:
        raise UsageError("nothing can be measured", where=opened.place, found="; ".join(run.notes))
    return RatesReport(
        task="speed",
        rates=tuple(run.rates),
        cards=run.cards,
        threads=torch.get_num_threads(),
        options=run.told | {"repeats": repeats},
        notes=tuple(run.notes),
        store_fingerprint=opened.fingerprint,
        versions={name: version(name) for name in ("embedstore", "torch", "numpy")},
        device=device_kind(run.device),
        seed=seed,
    )


def _in_turn(parts: Sequence[Part], tell: Tell) -> Iterator[tuple[Part, Callable[[float], None]]]:
    """Each part, with what is to be called with the share of it that is done."""
    for number, part in enumerate(parts):
        tell(part, number, len(parts))

        def share(done: float, part: Part = part, before: int = number) -> None:
            tell(part, before + done, len(parts))

        yield part, share
    tell("", len(parts), len(parts))


@dataclass(slots=True, kw_only=True)
class _Run:
    """What was measured so far."""

    store: Store
    device: torch.device
    options: EncodeOptions
    folder: Path
    repeats: int
    seed: int
    on_share: Callable[[float], None] | None = None
    rates: list[Rate] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cards: dict[str, EncoderCard] = field(default_factory=dict)
    told: dict[str, str | int | float | bool] = field(default_factory=dict)

    def encode(self, part: Table, name: str | None, spec: str | None, *, samples: MakeSamples) -> None:
        """The stages of one encoder, on what `samples(size of a batch)` gives."""
        feature = self._feature(part, name)
        if feature is None:
            return
        try:
            encoder = encoder_for_card(feature.card, spec, device=self.options.device)
        except EncoderError as bad:
            if spec is not None:
                raise
            self.notes.append(f"{part} are not encoded: {bad.problem}; {bad.todo}")
            return
        size = self.options.batch_for(encoder.card)
        taken = samples(size)
        works_of = image_works if part == "images" else text_works
        works = works_of(feature, encoder, taken.planned, self.options, self.folder)
        self.cards[feature.name] = encoder.card
        self.told |= {f"{part}_batch": size, f"{part}_of": taken.words}
        self.rates += measure(
            works, of=f"encode {feature.name}: {taken.words}", repeats=self.repeats, on_share=self.on_share
        )

    def fit(
        self, image_name: str | None, text_name: str | None, *, batch_size: int | None, language: str
    ) -> None:
        """The steps of a fit."""
        image, text = self._feature("images", image_name), self._feature("texts", text_name)
        if image is None or text is None:
            return
        languages = self.store.plan.languages
        if languages and language not in languages:
            there = ", ".join(languages)
            self.notes.append(f"nothing is fitted: no text is in language {language!r}, but in {there}")
            return
        with fit_works(
            self.store,
            image.name,
            text.name,
            batch_size=batch_size,
            language=language,
            device=self.device,
            seed=self.seed,
        ) as found:
            of = f"fit {image.name} + {text.name}: {found.pictures} pairs a step, {found.precision}"
            self.told |= {"fit_batch": found.pictures, "fit_parameters": found.parameters}
            self.rates += measure(found.works, of=of, repeats=self.repeats, on_share=self.on_share)
        self.cards |= {image.name: image.card, text.name: text.card}

    def _feature(self, table: Table, name: str | None) -> Feature | None:
        """The one that is named, or the first of an encoder; none, with a note, where there is none."""
        if name is not None:
            return choose_features(self.store, [name], table)[0]
        try:
            return choose_features(self.store, None, table)[0]
        except UsageError:
            note = f"no feature of {table} that an encoder made, so nothing of them is measured"
            if note not in self.notes:
                self.notes.append(note)
            return None

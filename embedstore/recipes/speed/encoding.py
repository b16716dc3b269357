"""The stages of encoding, each alone, and all of them together, beside the bare forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedstore.bench.timing import Work
from embedstore.encode.decoding import open_decoders
from embedstore.encode.features import ImageJob, TextJob
from embedstore.encode.images import encode_image_units
from embedstore.encode.options import TEXT_TOKENS_PER_PICTURE
from embedstore.encode.probe import probe_images, probe_texts, target_of, write_unit
from embedstore.encode.texts import encode_text_units, token_batches
from embedstore.encoders import encode_all
from embedstore.errors import UsageError
from embedstore.recipes.speed.products import BOUND, counted_flops, finish, products
from embedstore.store import plan_feature

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from embedstore.documents import RateUnit
    from embedstore.encode.features import FeatureJob
    from embedstore.encode.options import EncodeOptions
    from embedstore.encode.plan import PlannedSource
    from embedstore.encode.unit import EncodedUnit
    from embedstore.encoders.base import ImageEncoder, TextEncoder
    from embedstore.store import Feature

FORWARD = "forward alone"
ALL = "encode, all stages"


def image_works(
    feature: Feature, encoder: ImageEncoder, planned: PlannedSource, options: EncodeOptions, folder: Path
) -> list[Work]:
    """Decoding, the forward pass, writing, and all of it as `encode` does it; rates in pictures.

    What is written goes to `folder` and is removed. `UsageError` where no picture
    can be read.
    """
    size, count = options.batch_for(encoder.card), planned.plan.images
    header = plan_feature(
        name=feature.name,
        plan=planned.plan,
        card=encoder.card,
        policy=feature.header.policy,
        # A unit is a batch here.
        shard_rows=1 << (size - 1).bit_length(),
        thumbnails=feature.header.thumbnails,
    )
    job = ImageJob(header=header, encoder=encoder)
    with open_decoders(options) as decoders:
        some = range(min(size, count))
        rows = decoders.prepared(planned, encoder, some, thumbnails=0, ahead=len(some))
        pixels = [row.pixels for row in rows if row.pixels is not None]
        if not pixels:
            raise UsageError("no picture can be read", where=feature.name)
        (unit,) = encode_image_units(
            planned,
            encoder,
            [target_of(job)],
            [0],
            batch_size=size,
            decoders=decoders,
            on_rows=lambda _: None,
            rows_of=lambda _: some,
        )

    def decode() -> None:
        with open_decoders(options) as workers:
            for _ in workers.prepared(
                planned, encoder, range(count), thumbnails=header.thumbnails, ahead=2 * size
            ):
                pass

    def whole() -> float:
        return count / probe_images([job], job, planned, options, folder / "store").rate

    return [
        *_forward(encoder, [pixels], unit="pictures/s"),
        Work(what="decode and prepare", run=decode, amount=count, unit="pictures/s"),
        _writing(job, unit, len(some), folder, "pictures/s"),
        Work(what=ALL, run=whole, amount=count, unit="pictures/s", limit=FORWARD),
    ]


def text_works(
    feature: Feature, encoder: TextEncoder, planned: PlannedSource, options: EncodeOptions, folder: Path
) -> list[Work]:
    """The same of texts: cutting into tokens in place of decoding; rates in texts."""
    header = plan_feature(
        name=feature.name, plan=planned.plan, card=encoder.card, policy=feature.header.policy
    )
    job = TextJob(header=header, encoder=encoder)
    texts = [row["text"] for row in planned.text_rows()]
    ids, _ = encoder.prepare(texts)
    budget = TEXT_TOKENS_PER_PICTURE * options.batch_for(encoder.card)
    batches = list(token_batches(np.array([len(each) for each in ids]), budget))
    (unit,) = encode_text_units(
        lambda rows: [texts[row] for row in rows],
        encoder,
        [target_of(job)],
        [0],
        token_budget=budget,
        on_rows=lambda _: None,
    )
    of_unit = len(header.unit_rows(0))

    def cut() -> None:
        encoder.prepare(texts)

    def whole() -> float:
        return len(texts) / probe_texts([job], job, planned, options, folder / "store").rate

    return [
        *_forward(encoder, [[ids[k] for k in batch] for batch in batches], unit="texts/s"),
        Work(what="cut into tokens", run=cut, amount=len(texts), unit="texts/s"),
        _writing(job, unit, of_unit, folder, "texts/s"),
        Work(what=ALL, run=whole, amount=len(texts), unit="texts/s", limit=FORWARD),
    ]


def _forward(encoder: Any, batches: Sequence[Sequence[Any]], *, unit: RateUnit) -> list[Work]:
    """The model on inputs that are there already, and matrix products that cost as much."""
    count = sum(map(len, batches))
    device = torch.device(encoder.card.device_kind)

    def forward() -> None:
        for batch in batches:
            encode_all(encoder, batch)
        finish(device)

    flops = counted_flops(forward)
    plain, limit = products(flops, amount=count, unit=unit, device=device, dtype=encoder.card.compute_dtype)
    ours = Work(what=FORWARD, run=forward, amount=count, unit=unit, limit=BOUND if flops else None)
    return [plain, *([limit] if flops else []), ours]


def _writing(job: FeatureJob, unit: EncodedUnit, rows: int, folder: Path, of: RateUnit) -> Work:
    return Work(what="write and flush", run=lambda: write_unit(unit, [job], folder), amount=rows, unit=of)

"""A fit of the default head: its step, its loading, both together, beside bare matrix products."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedstore.bench.timing import Work
from embedstore.fit.config import fit_config
from embedstore.fit.learner import Learner
from embedstore.fit.record import head_record
from embedstore.heads.buffers import POOL
from embedstore.recipes.speed.products import BOUND, counted_flops, own_randomness, products
from embedstore.stream.cached_pairs import pairs_on_device
from embedstore.stream.pairs import PairStream

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from embedstore.store import Store

STEP, LOAD, FIT = "step alone", "load alone", "fit"
_STEPS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class FitWorks:
    """What is timed of a fit, and its sizes."""

    works: list[Work]
    pictures: int
    parameters: int
    precision: str


@contextmanager
def fit_works(
    store: Store,
    image: str,
    text: str,
    *,
    batch_size: int | None,
    language: str,
    device: torch.device,
    seed: int,
) -> Iterator[FitWorks]:
    """Steps of `embedstore fit` with its defaults on two features; rates in steps.

    An epoch of at most 8 batches is gone through again and again, so what it reads is warm; on a GPU it is
    kept there where it fits, as a fit does. The step alone is taken on one batch that is there already.
    `UsageError` and `HeadError` as of a fit.
    """
    # Rates do not depend on the learning rate; this one changes next to nothing in many steps.
    config = fit_config(
        image=image,
        text=text,
        language=language,
        batch_size=batch_size,
        lr=1e-5,
        min_lr=0.0,
        epochs=10_000,
        seed=seed,
    )
    record = head_record(store, config)
    rows = np.arange(min(store.plan.images, _STEPS * config.batch_size))
    streamed = PairStream(
        store,
        image=image,
        text=text,
        pooled_texts=record.text_pooling == "pooled",
        rows=rows,
        batch_size=config.batch_size,
        language=language,
        seed=seed,
        pin=device.type == "cuda",
    )
    with own_randomness(device):
        learner = Learner(record, config, device=device, epoch_steps=streamed.steps)
        learner.head.train()
        stream = pairs_on_device(streamed, device, epochs=config.epochs)

        def load() -> None:
            with stream.epoch(0) as batches:
                for _ in batches:
                    pass

        def fit() -> None:
            with stream.epoch(0) as batches:
                for batch in batches:
                    learner.learn(batch)

        # The batch lives in the stream's buffers as long as its epoch goes on; other epochs have their own.
        with stream.epoch(0) as held:
            batch = next(iter(held))

            def step() -> None:
                learner.learn(batch)

            plain, bound = products(
                counted_flops(step),
                amount=1,
                unit="steps/s",
                device=device,
                dtype=learner.embedding.precision,
            )
            works = [
                plain,
                bound,
                Work(what=STEP, run=step, amount=1, unit="steps/s", limit=BOUND),
                Work(what=LOAD, run=load, amount=streamed.steps, unit="steps/s"),
                Work(what=FIT, run=fit, amount=streamed.steps, unit="steps/s", limit=STEP),
            ]
            yield FitWorks(
                works=works,
                pictures=len(batch.image.rows),
                parameters=learner.parameters,
                precision=learner.embedding.precision,
            )
    POOL.clear()

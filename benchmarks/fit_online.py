"""An epoch of cached tokens against the online recipe, and what of it is spent waiting for tokens.

The online recipe is freeze-align's: every step decodes its pictures, runs both frozen encoders on pictures
and one caption each, and then trains the same head with the same batch. ViT-Tiny/16 and MiniLM on a CPU, on
the photographs and captions of ../shared/data, or on rendered scenes where these are absent.
`benchmarks/fit.py` runs it.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent))
import encode_data
from common import Row, seconds

from embedstore.encode import EncodeOptions, encode_source, recode_feature
from embedstore.encoders import load_image_encoder, load_text_encoder
from embedstore.errors import EmbedstoreError
from embedstore.fit import fit_config, fit_head
from embedstore.fit.schedule import make_optimiser
from embedstore.heads.base import build_head
from embedstore.losses.clip import ClipLoss
from embedstore.sources import open_source
from embedstore.store import open_store
from embedstore.stream.pairs import PairStream

if TYPE_CHECKING:
    from collections.abc import Callable

    from embedstore.documents import FitConfig, HeadConfig
    from embedstore.fit import FitProgress

BATCH, WIDTH, EPOCHS, MERGED = 200, 256, 4, "merge-32"
IMAGE, TEXT = "vision", "words"


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch over all pictures: seconds of the clock, of the CPU, and of waiting for tokens."""

    wall: float
    cpu: float
    waited: float = 0.0


class Online:
    """Both recipes over the same pictures; everything lies in `folder`."""

    def __init__(self, folder: Path, *, pictures: int) -> None:
        captions = encode_data.FLICKR / "captions.csv"
        real = captions.is_file()
        self.kind = "Flickr8k photographs" if real else "rendered scenes"
        source = str(captions) if real else f"scenes:{pictures}"
        self.pictures = pictures
        vision, words = encode_data.vit(folder / "vit-tiny"), "demo:minilm"
        self.image: Any = load_image_encoder(vision, device="cpu")
        self.text: Any = load_text_encoder(words, device="cpu")
        self.source = open_source(source)
        self.folder, self.store = folder, folder / "store"
        encode_source(
            source,
            self.store,
            image_encoders=[f"{IMAGE}={vision}"],
            text_encoders=[f"{TEXT}={words}"],
            options=EncodeOptions(device="cpu", limit=pictures, thumbnails=0),
        )
        recode_feature(self.store, IMAGE, policy=MERGED, name=f"{IMAGE}-merged")
        self._pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))

    def close(self) -> None:
        """Let go of the decoding threads."""
        self._pool.shutdown()

    def config(self, image: str) -> FitConfig:
        """The fit of one image feature: the token head, one caption a picture."""
        return fit_config(image=image, text=TEXT, width=WIDTH, batch_size=BATCH, epochs=EPOCHS)

    def cached(self, image: str) -> list[Epoch]:
        """Epochs of a fit as `embedstore fit` runs it, the first left out."""
        marks: list[tuple[float, float]] = []

        def mark(at: FitProgress) -> None:
            if at.step % (at.steps // at.epochs) == 0:
                marks.append((time.perf_counter(), time.process_time()))

        out = self.folder / "head"
        fit_head(self.store, self.config(image), out, device="cpu", overwrite=True, on_progress=mark)
        lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        waited = [line["loading_seconds"] for line in lines if "loading_seconds" in line]
        return [
            Epoch(wall=b[0] - a[0], cpu=b[1] - a[1], waited=w)
            for (a, b), w in zip(pairwise(marks), waited[1:], strict=True)
        ]

    def online(self, head: HeadConfig) -> Epoch:
        """One epoch with both encoders in every step."""
        step, began = self.online_step(head), (time.perf_counter(), time.process_time())
        for first in range(0, self.pictures, BATCH):
            step(range(first, min(first + BATCH, self.pictures)))
        return Epoch(wall=time.perf_counter() - began[0], cpu=time.process_time() - began[1])

    def online_step(self, config: HeadConfig) -> Callable[[range], None]:
        """A step on samples of the source: decoding, encoders, head, update."""
        update, head = training(config)

        def run(rows: range) -> None:
            samples = [self.source[i] for i in rows]
            pixels = list(self._pool.map(self._pixels, samples))
            image = self.image.encode(pixels)
            ids, _ = self.text.prepare([s.captions[0].text for s in samples])
            text = self.text.encode(ids)
            offsets = torch.nn.functional.pad(text.mask.sum(1).cumsum(0), (1, 0))
            update(
                head.embed_image(image.tokens, image.prefix, image.pooled),
                head.embed_text(text.tokens[text.mask], offsets),
            )

        return run

    def _pixels(self, sample: Any) -> Any:
        return self.image.prepare(sample.picture.open())

    def cached_flops(self, head: HeadConfig, image: str) -> float:
        """Floating-point operations of a step on cached tokens, those of matrix products."""
        update, module = training(head)
        store = open_store(self.store)
        rows = store.plan.images
        stream = PairStream(
            store, image=image, text=TEXT, rows=torch.arange(rows).numpy(), batch_size=min(BATCH, rows)
        )
        with stream.epoch(0) as batches:
            batch = next(iter(batches))
            part = batch.image

            def run() -> None:
                update(
                    module.embed_image(part.tokens, part.prefix, part.pooled, part.weights),
                    module.embed_text(batch.text.tokens, batch.text.offsets),
                )

            return flops(run)


def training(config: HeadConfig) -> tuple[Callable[[torch.Tensor, torch.Tensor], None], Any]:
    """A fresh head, and what makes a step of it out of a batch's embeddings."""
    torch.manual_seed(0)
    head, loss = build_head(config).train(), ClipLoss()
    optimiser = make_optimiser(fit_config(image=IMAGE, text=TEXT), [head, loss], torch.device("cpu"))

    def update(image: torch.Tensor, text: torch.Tensor) -> None:
        optimiser.zero_grad()
        loss(image, text).backward()
        optimiser.step()

    return update, head


def flops(step: Callable[[], None]) -> float:
    """Floating-point operations of the matrix products, convolutions and attention of one call."""
    with FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops())


def online_rows(*, quick: bool) -> list[Row]:
    """`epoch-vs-online`, the same with merged tokens, and `loading-share`; none where MiniLM is missing."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            study = Online(Path(folder), pictures=400 if quick else 1000)
        except EmbedstoreError as bad:
            sys.stderr.write(f"epoch-vs-online left out: {bad}\n")
            return []
        try:
            return compared(study, rounds=1 if quick else 3)
        finally:
            study.close()


def compared(study: Online, *, rounds: int) -> list[Row]:
    """Rounds in which an online epoch stands beside a few cached ones of either feature."""
    features = {"epoch-vs-online": IMAGE, "epoch-vs-online-merged": f"{IMAGE}-merged"}
    study.cached(IMAGE)
    heads = {}
    for image in features.values():
        fitted = fit_head(study.store, study.config(image), study.folder / "sized", overwrite=True)
        heads[image] = fitted.head
    online_step = study.online_step(heads[IMAGE])
    batch = range(min(BATCH, study.pictures))
    online_flops = flops(lambda: online_step(batch))
    online: list[Epoch] = []
    cached: dict[str, list[Epoch]] = {image: [] for image in features.values()}
    for _ in range(rounds):
        online.append(study.online(heads[IMAGE]))
        for image in cached:
            cached[image] += study.cached(image)
    found = [
        row_of(study, name, online, cached[image], (online_flops, study.cached_flops(heads[image], image)))
        for name, image in features.items()
    ]
    return [*found, loading_row(study, cached)]


def row_of(
    study: Online, name: str, online: list[Epoch], cached: list[Epoch], operations: tuple[float, float]
) -> Row:
    """One ratio of medians, with the operations of a step on either side."""
    wall, cpu = (
        [statistics.median(getattr(e, clock) for e in side) for side in (online, cached)]
        for clock in ("wall", "cpu")
    )
    policy = f"{MERGED} tokens" if name.endswith("merged") else "all tokens, float16"
    return Row(
        name=name,
        ratio=wall[0] / wall[1],
        meaning="rate ours/reference",
        reference="decoding and both frozen encoders in every step",
        detail=(
            f"{policy}; {study.pictures} {study.kind}, ViT-Tiny/16 (random weights) and MiniLM, token head "
            f"-> {WIDTH}, batch {BATCH}, {torch.get_num_threads()} threads; an epoch online "
            f"{seconds(wall[0])}, cached {seconds(wall[1])}; of CPU time {cpu[0] / cpu[1]:.3g}; a step "
            f"{operations[0] / 1e9:.1f} and {operations[1] / 1e9:.2f} GFLOP, "
            f"{operations[0] / operations[1]:.1f} times"
        ),
    )


def loading_row(study: Online, cached: dict[str, list[Epoch]]) -> Row:
    """The share of an epoch in which the trainer stood waiting for tokens."""
    shares = {k: statistics.median(e.waited / e.wall for e in epochs) for k, epochs in cached.items()}
    return Row(
        name="loading-share",
        ratio=shares[IMAGE],
        meaning="share of an epoch",
        reference="the epoch",
        detail=(
            f"token head, 196 tokens x 192 -> {WIDTH}, batch {BATCH}, {study.pictures} pictures in the page "
            f"cache; {MERGED}: {shares[f'{IMAGE}-merged']:.3g}"
        ),
    )

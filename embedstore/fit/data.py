"""Which images a fit learns from, and which choose its checkpoint."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedstore.errors import UsageError
from embedstore.fit.rows import training_rows
from embedstore.index.exact import ranks_both_ways
from embedstore.metrics.recall import recall_at_k
from embedstore.store.selection import split_rows
from embedstore.stream.embed import embed_images, embed_texts
from embedstore.stream.groups import BUFFER_MB
from embedstore.stream.pairs import PairStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor

    from embedstore.documents import FitConfig
    from embedstore.heads.base import Head
    from embedstore.shapes import Float32Array, IntArray
    from embedstore.store import Feature, Store
    from embedstore.stream.share import Share

_AT_ONCE = 65536


def hold_out(rows: IntArray, share: float, seed: int) -> tuple[IntArray, IntArray]:
    """A seeded share of the images, at least two, and the others, at least two; both ascending."""
    random = np.random.Generator(np.random.Philox(key=[seed, 0x686F6C64]))
    count = max(2, round(len(rows) * share))
    if len(rows) - count < 2:
        raise UsageError(
            "too few pictures are left to fit on",
            where="val_fraction",
            found=f"{count} of {len(rows)} pictures held out",
            allowed="two or more left",
        )
    drawn = random.permutation(len(rows))
    return np.sort(rows[drawn[:count]]), np.sort(rows[drawn[count:]])


def caption_numbers(store: Store, texts: IntArray) -> IntArray:
    """A number for every text row of the store `(m,)`: equal for equal strings, -1 outside `texts`.

    Strings are compared by the first 64 bits of BLAKE2b, so that those of many millions take 8 bytes each.
    """
    column = store.texts(["text"])["text"]
    found = np.full(len(column), -1, np.int64)
    for first in range(0, len(texts), _AT_ONCE):
        rows = texts[first : first + _AT_ONCE]
        found[rows] = [_number(words) for words in column.take(rows).to_pylist()]
    return found


def _number(words: str) -> int:
    return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest(), "little", signed=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Images with all their usable captions, on which checkpoints are compared."""

    image: Feature
    text: Feature
    images: IntArray
    texts: IntArray
    image_of: IntArray

    @classmethod
    def build(cls, stream: PairStream) -> Validation:
        """From a stream over the images that choose; its captions are all taken, not one an image."""
        captions, images = stream.captions, stream.rows
        image, text = stream.features
        owned = [captions.texts[captions.starts[i] : captions.starts[i + 1]] for i in images]
        return cls(
            image=image,
            text=text,
            images=images,
            texts=np.concatenate(owned),
            image_of=np.repeat(np.arange(len(images)), [len(part) for part in owned]),
        )

    def recalls(self, heads: Sequence[Head], device: torch.device) -> list[dict[str, float]]:
        """Recall@1 of both directions of each head, as shares of 1; tokens are read once for all of them."""
        for head in heads:
            head.eval()
        widths: list[int] = []

        def beside(parts: Iterable[Tensor]) -> Tensor:
            found = [part.float() for part in parts]
            widths[:] = [part.shape[1] for part in found]
            return torch.cat(found, 1)

        v = embed_images(
            self.image,
            self.images,
            lambda p: beside(h.embed_image(p.tokens, p.prefix, p.pooled, p.weights) for h in heads),
            device=device,
        )
        u = embed_texts(
            self.text,
            self.texts,
            lambda p: beside(h.embed_text(p.tokens, p.offsets) for h in heads),
            device=device,
        )
        cuts = np.cumsum(widths)[:-1]
        sides = zip(np.split(v, cuts, 1), np.split(u, cuts, 1), strict=True)
        return [self._recall(np.ascontiguousarray(v), np.ascontiguousarray(u)) for v, u in sides]

    def _recall(self, v: Float32Array, u: Float32Array) -> dict[str, float]:
        to_image, to_text = ranks_both_ways(v, u, self.image_of)
        return {"text_to_image": recall_at_k(to_image, 1), "image_to_text": recall_at_k(to_text, 1)}


def training_data(
    store: Store,
    config: FitConfig,
    *,
    pooled_texts: bool = False,
    pin: bool = False,
    buffer_mb: float = BUFFER_MB,
    make_stream: Callable[..., PairStream] = PairStream,
    share: Share | None = None,
) -> tuple[PairStream, Validation | None]:
    """The stream to learn from and, where the configuration names one, what chooses the checkpoint.

    `pooled_texts`: read the pooled embedding of each text in place of its tokens. `share`: this process's
    part of the batches to learn from.
    """

    def stream(rows: IntArray, make: Callable[..., PairStream] = PairStream, **more: Any) -> PairStream:
        return make(
            store,
            image=config.image,
            text=config.text,
            pooled_texts=pooled_texts,
            rows=rows,
            batch_size=config.batch_size,
            role=config.role,
            language=config.language,
            captions=config.captions,
            seed=config.seed,
            buffer_mb=buffer_mb,
            pin=pin,
            **more,
        )

    chosen = training_rows(store, config)
    rows, texts, mix = chosen.images, chosen.texts, chosen.mix
    # Of rows that were chosen alone: what stands in for `PairStream` need not know of choices.
    own = {k: v for k, v in {"texts": texts, "mix": mix, "share": share}.items() if v is not None}
    if config.val_split is not None:
        chosen_on = stream(split_rows(store, config.val_split))
        return stream(rows, make_stream, **own), Validation.build(chosen_on)
    if config.val_fraction > 0:
        held, rest = hold_out(rows, config.val_fraction, config.seed)
        chosen_on = stream(held) if texts is None else stream(held, texts=texts)
        return stream(rest, make_stream, **own), Validation.build(chosen_on)
    return stream(rows, make_stream, **own), None

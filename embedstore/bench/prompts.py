"""Prompts to one vector a class, through the text encoder and, where there is one, the head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np
import torch

from embedstore.encoders import encoder_for_card
from embedstore.errors import HeadError, UsageError
from embedstore.heads.base import renormalised
from embedstore.model import FittedHead

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from embedstore.bench.setting import Setting
    from embedstore.encoders.base import TextEncoder
    from embedstore.heads.base import Part
    from embedstore.shapes import Float32Array, FloatArray, IntArray

Convention: TypeAlias = Literal["clip-benchmark", "freeze-align"]
CONVENTIONS: tuple[Convention, ...] = get_args(Convention)

PROMPTS_AT_ONCE = 64
# freeze-align's code repeats the first prompt of a class until there are so many.
PADDED_TO = 19


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaker:
    """What makes vectors of prompts: a text encoder, and a head; none: the encoder's own pooled embedding."""

    encoder: TextEncoder
    head: FittedHead | None

    @property
    def width(self) -> int:
        """e, the width of its vectors."""
        return self.encoder.card.pooled_width if self.head is None else self.head.width

    @property
    def parts(self) -> Sequence[Part]:
        """The parts of a joint embedding that are normalised each by itself."""
        return () if self.head is None else self.head.module.parts

    def vectors(self, ids: Sequence[IntArray]) -> Tensor:
        """Unit vectors `(b, e)` float64 on the host of one batch that the encoder has prepared."""
        batch = self.encoder.encode(ids)
        found = (
            batch.pooled
            if self.head is None
            else self.head.embed_encoded(batch.tokens, batch.mask, batch.pooled)
        )
        return torch.nn.functional.normalize(found.double().cpu(), dim=-1)


def speaker_of(setting: Setting, text_encoder: str | None = None) -> Speaker:
    """What makes vectors of prompts in the space of a setting's images.

    The text encoder is that of the setting's text card, found by the spec `text_encoder` or remembered. For
    stored embeddings that a head made, that head is needed: `HeadError`. `EncoderError` where the encoder is
    not found or is another one; `UsageError` where the setting has no text card.
    """
    if setting.text_card is None:
        raise UsageError(
            "nothing says which text encoder belongs to the images",
            todo="give a head with --head, or a text feature of the same model with --text",
        )
    head = setting.embedder if isinstance(setting.embedder, FittedHead) else None
    if head is None and setting.image.card.head is not None:
        raise HeadError(
            "class prompts must go through the head that made these embeddings",
            where=setting.image.name,
            found=f"made by the head {setting.image.card.head.sha256[:16]}",
            todo="give it with --head DIR",
        )
    encoder = encoder_for_card(setting.text_card, text_encoder, device=str(setting.embedder.device))
    return Speaker(encoder=encoder, head=head)


@torch.inference_mode()
def class_vectors(
    speaker: Speaker,
    prompts: Sequence[Sequence[str]],
    *,
    convention: str = "clip-benchmark",
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Float32Array, int]:
    """One vector a class `(c, e)` float32 of its prompts, each one or more; and how many prompts were cut.

    `clip-benchmark`: the mean of the normalised prompt embeddings, normalised again. `freeze-align`: that
    code's: the first prompt is repeated until the class has 19 (or as many as the class with most), and the
    mean is not normalised, so classes whose prompts agree have longer vectors. Sums are in float64.
    """
    if convention not in CONVENTIONS:
        raise UsageError("unknown convention", found=convention, allowed=", ".join(CONVENTIONS))
    counts = np.array([len(own) for own in prompts])
    first = np.cumsum(counts) - counts
    weights = np.ones(counts.sum())
    if convention == "freeze-align":
        weights[first] += max(PADDED_TO, int(counts.max())) - counts
    sums, cut = _sums(speaker, prompts, weights, on_progress)
    means = sums / torch.from_numpy(np.add.reduceat(weights, first))[:, None]
    if convention == "clip-benchmark":
        means = renormalised(means, speaker.parts)
    return means.float().numpy(), cut


def _sums(
    speaker: Speaker,
    prompts: Sequence[Sequence[str]],
    weights: FloatArray,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[Tensor, int]:
    """Weighted sum of the prompt vectors of each class `(c, e)` float64, batch by batch."""
    owner = torch.from_numpy(np.repeat(np.arange(len(prompts)), [len(own) for own in prompts]))
    ids, cut = speaker.encoder.prepare([text for own in prompts for text in own])
    # Longest first, so that little is padded.
    order = torch.tensor(sorted(range(len(ids)), key=lambda place: -len(ids[place])))
    of = torch.from_numpy(weights)[:, None]
    sums = torch.zeros(len(prompts), speaker.width, dtype=torch.float64)
    for at in range(0, len(order), PROMPTS_AT_ONCE):
        part = order[at : at + PROMPTS_AT_ONCE]
        vectors = speaker.vectors([ids[place] for place in part.tolist()]) * of[part]
        sums.index_add_(0, owner[part], vectors)
        if on_progress is not None:
            on_progress(at + len(part), len(order))
    return sums, sum(cut)

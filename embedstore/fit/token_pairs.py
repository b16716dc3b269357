"""What a loss that compares tokens is given beside the embeddings of pictures and texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from embedstore.errors import HeadError, UsageError
from embedstore.heads.image_inputs import patches_of
from embedstore.heads.precision import wide
from embedstore.losses.base import TokenPairs

if TYPE_CHECKING:
    from embedstore.documents import FitConfig, HeadConfig
    from embedstore.heads.base import Head
    from embedstore.stream.pairs import PairBatch


def token_pairs(head: Head, record: HeadConfig, batch: PairBatch) -> TokenPairs:
    """Patches and words of a batch on the head's device, embedded one by one; `HeadError` as of the head."""
    image, text = batch.image, batch.text
    patches = wide(head.embed_patches(image.tokens, image.prefix, image.pooled, image.weights))
    stored = patches.shape[1]
    return TokenPairs(
        patches=patches,
        words=wide(head.embed_words(text.tokens, text.offsets)),
        offsets=text.offsets,
        count=stored if image.weights is None else patches_of(record) or stored,
        shares=image.weights,
        owner=None if batch.owner is None else torch.from_numpy(batch.owner).to(patches.device),
    )


def refuse_without_tokens(head: Head, record: HeadConfig, config: FitConfig, device: torch.device) -> None:
    """Refuse, before anything is read, a fit whose loss compares tokens that it does not have.

    `HeadError` where the head embeds no single patches or words, `UsageError` for micro-batches and for
    several processes.
    """
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    if together and torch.distributed.get_world_size() > 1:
        raise UsageError(
            f"the loss {config.loss!r} compares tokens, which processes do not share",
            where="torchrun",
            found=f"{torch.distributed.get_world_size()} processes",
            allowed="one process",
        )
    if config.micro_batch is not None:
        raise UsageError(
            f"the loss {config.loss!r} compares tokens, which a gradient cache does not keep",
            where="micro_batch",
            todo="leave micro_batch out",
        )
    pooled = torch.zeros(1, record.image_cls_width, device=device)
    prefix = torch.zeros(1, 1, record.image_width, device=device) if record.image_card.has_cls else None
    patch = torch.zeros(1, 1, record.image_width, device=device)
    word = torch.zeros(1, record.text_width, device=device)
    training = head.training
    head.eval()
    try:
        with torch.no_grad():
            head.embed_patches(patch, prefix, pooled)
            head.embed_words(word, torch.tensor([0, 1]))
    except HeadError as bad:
        raise HeadError(
            f"the loss {config.loss!r} compares single patches and words: {bad.problem}",
            where=f"head {config.head!r}",
            found=bad.found,
            todo=bad.todo or "fit the head 'token', or another loss",
        ) from None
    finally:
        head.train(training)

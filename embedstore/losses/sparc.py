"""SPARC: the contrastive loss of pictures and texts, and one of the words of a text inside its picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from embedstore.errors import UsageError
from embedstore.losses.clip import Averaging, ClipLoss

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embedstore.losses.base import Pairing, TokenPairs

BLOCK_CPU = 1 << 21
BLOCK_GPU = 1 << 25
_FLAT = 1e-6


def alignment(similarity: Tensor, copies: Tensor, count: int) -> Tensor:
    """How much of each patch a word is made of, `(k, l, t)`, summing to 1 over the patches.

    `similarity (k, l, t)` of words with patches, brought to 0 to 1 by the least and the largest over a
    picture's patches; what is then below `1 / count` is 0. `copies (k, t)`: how many patches each stands for,
    0 for none. A word to which all patches are alike takes them alike.
    """
    here = (copies > 0).unsqueeze(1)
    low = similarity.masked_fill(~here, torch.inf).amin(-1, keepdim=True)
    range_ = similarity.masked_fill(~here, -torch.inf).amax(-1, keepdim=True) - low
    flat = range_ < _FLAT
    scaled = (similarity - low) / torch.where(flat, torch.ones_like(range_), range_)
    scaled = torch.where(flat, torch.ones_like(scaled), scaled)
    kept = torch.where(scaled < 1 / count, torch.zeros_like(scaled), scaled) * copies.unsqueeze(1)
    return kept / kept.sum(-1, keepdim=True)


def words_in_pictures(
    patches: Tensor, words: Tensor, lengths: Tensor, copies: Tensor, *, count: int, scale: Tensor
) -> Tensor:
    """The loss of every text inside its own picture `(k,)`: a mean over its words.

    `patches (k, t, e)`, `words (k, l, e)` with zeros behind the `lengths (k,)`, unit vectors. The patches
    grouped by a word, normalised, are contrasted with the words of the text, and the word with the groups of
    all its words; the mean of both cross entropies of `scale · cosine`.
    """
    real = torch.arange(words.shape[1], device=words.device) < lengths.unsqueeze(1)
    grouped = functional.normalize(
        alignment(words @ patches.transpose(1, 2), copies, count) @ patches, dim=-1
    )
    logits = grouped @ words.transpose(1, 2) * scale
    empty = ~real.unsqueeze(1)
    of_groups = logits.masked_fill(empty, -torch.inf).logsumexp(-1)
    of_words = logits.transpose(1, 2).masked_fill(empty, -torch.inf).logsumexp(-1)
    both = of_groups + of_words - 2 * logits.diagonal(dim1=1, dim2=2)
    return both.masked_fill(~real, 0.0).sum(1) / (2 * lengths)


def token_loss(tokens: TokenPairs, scale: Tensor, *, texts: int | None = None) -> Tensor:
    """The mean of `words_in_pictures` over the texts, in blocks of `texts` whose gradients are taken at once.

    So beside the tokens and their gradients no more than a block is held, and the result is once
    differentiable. Source: Bica et al., Improving fine-grained understanding in image-text pre-training,
    2024; the similarities are of unit vectors.
    """
    found: Tensor = _TokenLoss.apply(tokens.patches, tokens.words, scale, tokens, texts)
    return found


class _TokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by place
        ctx: Any, patches: Tensor, words: Tensor, scale: Tensor, tokens: TokenPairs, texts: int | None
    ) -> Tensor:
        with_gradient = any(ctx.needs_input_grad)
        grads = [torch.zeros_like(x) for x in (patches, words, scale)] if with_gradient else []
        lengths = tokens.offsets.diff()
        total = torch.zeros((), dtype=torch.float64, device=words.device)
        for part in _blocks(lengths, patches, texts):
            low, high = int(tokens.offsets[part.start]), int(tokens.offsets[part.stop])
            owner = _owners(tokens, part)
            own = [x.detach().requires_grad_(with_gradient) for x in (patches[owner], words[low:high], scale)]
            with torch.set_grad_enabled(with_gradient):
                each = words_in_pictures(
                    own[0],
                    pad_sequence(list(torch.split(own[1], lengths[part].tolist())), batch_first=True),
                    lengths[part].to(words.device),
                    _copies(tokens, owner),
                    count=tokens.count,
                    scale=own[2],
                )
                loss = each.sum() / len(lengths)
            total += loss.detach()
            if with_gradient:
                of_patches, of_words, of_scale = torch.autograd.grad(loss, own)
                grads[0].index_add_(0, owner, of_patches)
                grads[1][low:high] = of_words
                grads[2] += of_scale
        ctx.save_for_backward(*grads)
        return total.to(words.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_loss: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        patches, words, scale = ctx.saved_tensors
        return patches * of_loss, words * of_loss, scale * of_loss, None, None


def _blocks(lengths: Tensor, patches: Tensor, texts: int | None) -> Iterator[slice]:
    """The texts block by block: as many as make arrays of a few MiB (a GPU: a few hundred), or `texts`."""
    if texts is None:
        _, t, e = patches.shape
        most = BLOCK_GPU if patches.device.type == "cuda" else BLOCK_CPU
        longest = int(lengths.max())
        texts = max(1, most // max(t * e, longest * t, longest * longest))
    return (slice(i, min(i + texts, len(lengths))) for i in range(0, len(lengths), texts))


def _owners(tokens: TokenPairs, part: slice) -> Tensor:
    if tokens.owner is None:
        return torch.arange(part.start, part.stop, device=tokens.patches.device)
    return tokens.owner[part]


def _copies(tokens: TokenPairs, owner: Tensor) -> Tensor:
    if tokens.shares is None:
        return tokens.patches.new_ones(len(owner), tokens.patches.shape[1])
    return tokens.shares[owner].to(tokens.patches.dtype) * tokens.count


class SparcLoss(ClipLoss):
    """`λg · contrastive(pictures, texts) + λf · token_loss`, one τ for both.

    `global_weight` is λg, `local_weight` λf: 0 or more, not both 0, or a `UsageError`; the rest as of
    `ClipLoss`. The head must have embeddings of single patches and words.
    """

    compares_tokens: ClassVar[bool] = True

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        positives: Averaging = "mean",
        global_weight: float = 0.5,
        local_weight: float = 1.0,
    ) -> None:
        super().__init__(temperature=temperature, positives=positives)
        if min(global_weight, local_weight) < 0 or global_weight + local_weight == 0:
            raise UsageError(
                "bad weights of loss 'sparc'",
                found=f"global_weight {global_weight}, local_weight {local_weight}",
                allowed="0 or more, one of them above",
            )
        self.global_weight, self.local_weight = global_weight, local_weight

    def forward(self, image: Tensor, text: Tensor, pairing: Pairing | None = None) -> Tensor:
        """λg times the contrastive loss of `(b, e)` and `(m, e)`."""
        return self.global_weight * super().forward(image, text, pairing)

    def of_tokens(self, tokens: TokenPairs) -> Tensor:
        """λf times the loss of the words inside their pictures."""
        # A copy, since `forward` clamps τ in place, which this graph may not see.
        scale = 1 / self.temperature.clone().to(tokens.words.dtype)
        return self.local_weight * token_loss(tokens, scale)

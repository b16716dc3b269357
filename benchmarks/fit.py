"""The speed of a fit: its step against a naive one, the online recipe, and its own matrix products.

`step-vs-naive`: a training step of the token head, mean first, against the same step written token by token.
That reference projects every token with plain modules and lets autograd through all of it, text padded to
the longest and averaged under a mask. Both take the same float16 tokens, dropout, loss, optimiser and
threads, and start from equal weights. The other files named `fit_*.py` say what the other rows are.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent))
from common import Row, main, paired_ratio
from fit_gpu import gpu_rows
from fit_memory import large_batch_memory
from fit_online import online_rows
from fit_second_order import second_order_rows

from embedstore.heads.dropout import dropout
from embedstore.heads.token import TokenHead
from embedstore.losses.clip import ClipLoss
from embedstore.testing.heads import head_config

if TYPE_CHECKING:
    from collections.abc import Callable

RATE = 0.1


@dataclass(frozen=True, kw_only=True)
class Size:
    """One step's sizes: batch, patches, image width, text tokens at most, text width, joint width."""

    name: str
    b: int
    t: int
    d: int
    texts: int
    text_d: int
    e: int

    @property
    def text(self) -> str:
        """All of them, and the threads."""
        return (
            f"{self.t} tokens x {self.d} -> {self.e}, batch {self.b}, texts of 8 to {self.texts} x "
            f"{self.text_d}, {torch.get_num_threads()} threads"
        )


SIZES = (
    Size(name="step-vs-naive", b=32, t=256, d=1024, texts=24, text_d=1024, e=1024),
    Size(name="step-vs-naive-small", b=200, t=196, d=192, texts=24, text_d=384, e=256),
)


class NaiveToken(nn.Module):
    """LayerNorm, dropout, then a linear map beside a two-layer one, on every token."""

    def __init__(self, d: int, e: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d)
        self.linear, self.hidden, self.out = nn.Linear(d, e), nn.Linear(d, e), nn.Linear(e, e)

    def forward(self, x: Tensor) -> Tensor:
        """Every vector of `x` by itself."""
        x = dropout(self.norm(x), RATE * self.training)
        return self.linear(x) + self.out(functional.gelu(self.hidden(x)))


class NaiveMlp(nn.Module):
    """The global text projector."""

    def __init__(self, e: int) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(e, e), nn.Linear(e, e), nn.LayerNorm(e)

    def forward(self, x: Tensor) -> Tensor:
        """Every vector of `x` by itself."""
        h = self.first(x)
        return self.norm(h + dropout(self.second(functional.gelu(h)), RATE * self.training))


class NaiveHead(nn.Module):
    """The token head as its formula reads."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.image_local, self.image_cls = NaiveToken(size.d, size.e), NaiveToken(size.d, size.e)
        self.text_token, self.text_global = NaiveToken(size.text_d, size.e), NaiveMlp(size.e)

    def embed_image(self, tokens: Tensor, prefix: Tensor) -> Tensor:
        """Padless: every picture has as many tokens."""
        local = self.image_local(tokens.float()).mean(1)
        return functional.normalize(local + self.image_cls(prefix[:, 0].float()), dim=-1)

    def embed_text(self, padded: Tensor, mask: Tensor) -> Tensor:
        """The mean under the mask of padded tokens."""
        weights = (mask / mask.sum(1, keepdim=True)).unsqueeze(-1)
        mean = (self.text_token(padded.float()) * weights).sum(1)
        return functional.normalize(self.text_global(mean), dim=-1)


def step(head: nn.Module, embed: Callable[[], tuple[Tensor, Tensor]]) -> Callable[[], None]:
    """One whole training step of a head: embeddings, loss, gradients, update."""
    loss = ClipLoss()
    optimiser = torch.optim.AdamW([*head.parameters(), *loss.parameters()], lr=1e-4)

    def run() -> None:
        optimiser.zero_grad()
        loss(*embed()).backward()
        optimiser.step()

    return run


def measure_size(size: Size, repeats: int) -> Row:
    """Both steps in turns on one batch of random tokens."""
    torch.manual_seed(0)
    ours = TokenHead(
        head_config(image_width=size.d, text_width=size.text_d, width=size.e, dropout=RATE)
    ).train()
    naive = NaiveHead(size).train()
    naive.load_state_dict(ours.state_dict())
    tokens, prefix = torch.randn(size.b, size.t, size.d).half(), torch.randn(size.b, 1, size.d).half()
    lengths = torch.randint(8, size.texts + 1, (size.b,))
    mask = torch.arange(size.texts) < lengths.unsqueeze(1)
    padded = torch.randn(size.b, size.texts, size.text_d).half()
    packed, offsets = padded[mask], functional.pad(lengths.cumsum(0), (1, 0))
    check_equal(ours, naive, (tokens, prefix, packed, offsets, padded, mask))
    paired = paired_ratio(
        step(ours, lambda: (ours.embed_image(tokens, prefix), ours.embed_text(packed, offsets))),
        step(naive, lambda: (naive.embed_image(tokens, prefix), naive.embed_text(padded, mask))),
        repeats,
    )
    return Row(
        name=size.name,
        ratio=paired.rate,
        meaning="rate ours/reference",
        reference="every token projected, autograd through all",
        detail=f"{size.text}; {paired.text}",
    )


@torch.no_grad()
def check_equal(ours: TokenHead, naive: NaiveHead, batch: tuple[Tensor, ...]) -> None:
    """Both heads must give the same embeddings before their times mean anything."""
    tokens, prefix, packed, offsets, padded, mask = batch
    ours.eval(), naive.eval()
    torch.testing.assert_close(
        ours.embed_image(tokens, prefix), naive.embed_image(tokens, prefix), atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(
        ours.embed_text(packed, offsets), naive.embed_text(padded, mask), atol=1e-5, rtol=1e-4
    )
    ours.train(), naive.train()


def measure(quick: bool) -> list[Row]:  # noqa: FBT001 - the one argument of every benchmark
    """Everything; `--quick` takes fewer rounds of the same sizes, and fewer pictures online."""
    return [
        *(measure_size(size, 7 if quick else 31) for size in SIZES),
        *online_rows(quick=quick),
        *second_order_rows(quick=quick),
        *gpu_rows(quick=quick),
        large_batch_memory(),
    ]


if __name__ == "__main__":
    main(measure, description=__doc__.splitlines()[0])

"""Steps of DALIP's second orders against their bare matrix products, the first order, and the online recipe.

Sizes of the paper: 196 patches and texts of 77 tokens, both 768 wide, joint width 512; r 46, four heads.
The bare products are those that a step cannot do without, forward and backward, on float32 operands that are
there already; the optimiser's update is none of them. `benchmarks/fit.py` runs it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from common import Row, turns

from embedstore.documents import FitConfig
from embedstore.fit.parts import loss_of_parts
from embedstore.fit.schedule import make_optimiser
from embedstore.heads.dalip import DalipHead
from embedstore.losses.clip import ClipLoss
from embedstore.testing.heads import head_config

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = ("mbdc", "bdc", "mp", "kspd")
PATCHES, TEXT_TOKENS, WIDTH, JOINT, REDUCED, HEADS = 196, 77, 768, 512, 46, 4
BATCH, ONLINE_BATCH = 128, 64


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """One batch of cached tokens in float16, on a device."""

    patches: Tensor
    prefix: Tensor
    words: Tensor
    offsets: Tensor

    @classmethod
    def random(cls, batch: int, device: str) -> Tokens:
        """Of normal deviates."""
        torch.manual_seed(0)
        return cls(
            patches=torch.randn(batch, PATCHES, WIDTH).half().to(device),
            prefix=torch.randn(batch, 1, WIDTH).half().to(device),
            words=torch.randn(batch * TEXT_TOKENS, WIDTH).half().to(device),
            offsets=torch.arange(batch + 1) * TEXT_TOKENS,
        )


def dalip(**options: float | str) -> DalipHead:
    """The head at these sizes, with freeze-align's projectors as its first order."""
    torch.manual_seed(0)
    config = head_config(
        image_width=WIDTH, text_width=WIDTH, width=JOINT, head="dalip", dropout=0.1, options=dict(options)
    )
    return DalipHead(config).train()


def step_of(head: DalipHead, device: str, tokens: Callable[[], Tokens]) -> Callable[[], None]:
    """A training step: embeddings, loss, gradients, update."""
    loss = ClipLoss().to(device)
    head = head.to(device)
    optimiser = make_optimiser(FitConfig(image="vision", text="words"), [head, loss], torch.device(device))

    def run() -> None:
        batch = tokens()
        optimiser.zero_grad()
        image = head.embed_image(batch.patches, batch.prefix)
        text = head.embed_text(batch.words, batch.offsets)
        loss_of_parts(loss, head.parts, image, text).backward()
        optimiser.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def bare_products(kind: str, batch: int, device: str) -> tuple[Callable[[], None], float]:
    """All matrix products of a second-order step, and how many floating-point operations they are."""
    heads = 1 if kind == "bdc" else HEADS
    cut, r = JOINT // heads, REDUCED
    n = (heads - 1) * r * r if kind == "mp" else heads * r * (r + 1) // 2
    pairs = heads - 1 if kind == "mp" else heads
    shapes: list[tuple[int, int, int, int]] = [(1, batch, JOINT, batch), *[(1, batch, batch, JOINT)] * 2]
    for m in (PATCHES, TEXT_TOKENS):
        places = batch * m
        shapes += [(1, places, WIDTH, JOINT), (1, JOINT, places, WIDTH)]
        shapes += [(1, batch, WIDTH, JOINT), (1, JOINT, batch, WIDTH)]
        split = places * heads
        shapes += [(1, split, cut, r), (1, split, r, cut), (1, r, split, cut)]
        shapes += [(batch * pairs, r, m, r)]
        shapes += [(batch * pairs, m, r, r)] * (2 if kind == "mp" else 1)
        shapes += [(batch * heads, r, r, r)] * (5 if kind == "kspd" else 0)
        shapes += [(1, batch, n, n), (1, batch, n, n), (1, n, batch, n)]
        shapes += [(1, batch, n, JOINT), (1, batch, JOINT, n), (1, JOINT, batch, n)]
    most = max(b * max(i * k, k * j, i * j) for b, i, k, j in shapes)
    left, right, out = (torch.randn(most, device=device) for _ in range(3))

    def run() -> None:
        for b, i, k, j in shapes:
            torch.bmm(
                left[: b * i * k].view(b, i, k),
                right[: b * k * j].view(b, k, j),
                out=out[: b * i * j].view(b, i, j),
            )
        if device == "cuda":
            torch.cuda.synchronize()

    return run, float(sum(2 * b * i * k * j for b, i, k, j in shapes))


def second_order_rows(*, quick: bool, device: str = "cpu") -> list[Row]:
    """Every second order against its products, both orders against the first, without encoders and with."""
    repeats = 5 if quick else 15
    tokens = Tokens.random(BATCH, device)
    rows = [against_products(kind, tokens, repeats, device) for kind in KINDS]
    both, first = (step_of(dalip(lambda1=share), device, lambda: tokens) for share in (0.4, 1.0))
    found = turns(both, first, repeats)
    rows.append(
        Row(
            name="mbdc-vs-first",
            ratio=found.time,
            meaning="time ours/reference",
            reference="the first order alone (token projectors)",
            detail=f"both orders; {sizes(BATCH, device)}; {found.text}",
        )
    )
    return [*rows, against_online(quick=quick, device=device)]


def against_products(kind: str, tokens: Tokens, repeats: int, device: str) -> Row:
    """A step of one second order alone against its bare products."""
    ours = step_of(dalip(second=kind, lambda1=0.0), device, lambda: tokens)
    products, operations = bare_products(kind, BATCH, device)
    found = turns(ours, products, repeats)
    return Row(
        name=f"{kind}-vs-matmul",
        ratio=found.time,
        meaning="time ours/reference",
        reference="its bare matrix products",
        detail=f"{sizes(BATCH, device)}; {operations / 1e9:.1f} GFLOP; {found.text}",
    )


class Encoders:
    """A ViT-B/16 and a text transformer of the same size, with random weights, on one batch of noise."""

    def __init__(self, batch: int, device: str) -> None:
        from transformers import CLIPTextConfig, CLIPTextModel, ViTConfig, ViTModel

        torch.manual_seed(0)
        text = CLIPTextConfig(hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_attention_heads=12)
        self.image = ViTModel(ViTConfig(), add_pooling_layer=False).to(device).eval()
        self.text = CLIPTextModel(text).to(device).eval()
        self.pixels = torch.randn(batch, 3, 224, 224, device=device)
        self.ids = torch.randint(1, 40000, (batch, TEXT_TOKENS), device=device)
        self.offsets = torch.arange(batch + 1) * TEXT_TOKENS

    @torch.no_grad()
    def tokens(self) -> Tokens:
        """What a step of the online recipe computes before the head."""
        states = self.image(pixel_values=self.pixels).last_hidden_state
        words = self.text(input_ids=self.ids).last_hidden_state
        return Tokens(
            patches=states[:, 1:], prefix=states[:, :1], words=words.flatten(0, 1), offsets=self.offsets
        )


def against_online(*, quick: bool, device: str) -> Row:
    """Steps that run frozen encoders: both orders against the first alone."""
    encoders = Encoders(ONLINE_BATCH, device)
    both, first = (step_of(dalip(lambda1=share), device, encoders.tokens) for share in (0.4, 1.0))
    found = turns(both, first, 2 if quick else 7)
    return Row(
        name="mbdc-vs-online",
        ratio=found.time,
        meaning="time ours/reference",
        reference="the first order alone, frozen encoders in both steps",
        detail=f"ViT-B/16 and 12 layers for texts, random weights; {sizes(ONLINE_BATCH, device)}; "
        f"{found.text}",
    )


def sizes(batch: int, device: str) -> str:
    """What a row was measured with."""
    where = "GPU, float32" if device == "cuda" else f"{torch.get_num_threads()} threads"
    return f"{PATCHES} and {TEXT_TOKENS} tokens x {WIDTH} -> {JOINT}, batch {batch}, {where}"

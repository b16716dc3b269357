"""On a GPU: second orders as on a CPU, and the share of the bf16 peak that a step of the token head reaches.

The peak is that of a large square product of bf16 matrices on the same device in the same run, so that no
table of devices is needed. Left out, with a word on standard error, where there is no GPU.
`benchmarks/fit.py` runs it.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

sys.path.insert(0, str(Path(__file__).parent))
from common import Row, turns
from fit_second_order import second_order_rows
from torch.utils.flop_counter import FlopCounterMode

from embedstore.documents import FitConfig
from embedstore.fit.schedule import make_optimiser
from embedstore.heads.token import TokenHead
from embedstore.losses.clip import ClipLoss
from embedstore.testing.heads import head_config

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH, PATCHES, TEXT_TOKENS, WIDTH, SQUARE = 1024, 256, 24, 1024, 8192


def gpu_rows(*, quick: bool) -> list[Row]:
    """Rows whose names end in `-gpu`; none without a GPU."""
    if not torch.cuda.is_available():
        sys.stderr.write("rows on a GPU left out: torch sees none\n")
        return []
    rows = [replace(row, name=f"{row.name}-gpu") for row in second_order_rows(quick=quick, device="cuda")]
    return [*rows, share_of_peak(repeats=5 if quick else 15)]


def share_of_peak(*, repeats: int) -> Row:
    """Operations a second of a step of `token` at DINOv2-L sizes over those of a bare bf16 product."""
    step, product = token_step(), square_product()
    with FlopCounterMode(display=False) as counter:
        step()
    found = turns(step, product, repeats, warmup=3)
    reached = counter.get_total_flops() / found.ours
    peak = 2 * SQUARE**3 / found.reference
    return Row(
        name="token-bf16-peak-gpu",
        ratio=reached / peak,
        meaning="share of the peak",
        reference=f"a product of {SQUARE} x {SQUARE} bf16 matrices",
        detail=(
            f"{torch.cuda.get_device_name()}, {PATCHES} tokens x {WIDTH} -> {WIDTH}, batch {BATCH}, bf16; "
            f"{reached / 1e12:.1f} of {peak / 1e12:.1f} TFLOP/s; {found.text}"
        ),
    )


def token_step() -> Callable[[], None]:
    """A step on tokens that are on the device, products in bf16 under autocast."""
    torch.manual_seed(0)
    config = head_config(image_width=WIDTH, text_width=WIDTH, width=WIDTH, dropout=0.1)
    head, loss = TokenHead(config).to("cuda").train(), ClipLoss().to("cuda")
    device = torch.device("cuda")
    optimiser = make_optimiser(FitConfig(image="vision", text="words"), [head, loss], device)
    patches = torch.randn(BATCH, PATCHES, WIDTH, device=device).half()
    prefix = torch.randn(BATCH, 1, WIDTH, device=device).half()
    words = torch.randn(BATCH * TEXT_TOKENS, WIDTH, device=device).half()
    offsets = torch.arange(BATCH + 1) * TEXT_TOKENS

    def run() -> None:
        optimiser.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            value = loss(head.embed_image(patches, prefix), head.embed_text(words, offsets))
        value.backward()
        optimiser.step()
        torch.cuda.synchronize()

    return run


def square_product() -> Callable[[], None]:
    """One large product, waited for."""
    a, b = (torch.randn(SQUARE, SQUARE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)

    def run() -> None:
        torch.mm(a, b, out=out)
        torch.cuda.synchronize()

    return run

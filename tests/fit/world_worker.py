"""One of several processes that fit the same heads together, in float64: `world_worker.py RENDEZVOUS RANK SIZE STORE OUT`."""

import json
import sys
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from embedstore.fit import fit_config, fit_head
from embedstore.fit.world import joined_world
from embedstore.losses import blocks, clip

CPU = torch.device("cpu")
BATCH = 21
CASES = {
    "plain": {"dropout": 0.0},
    "dropout": {"val_fraction": 0.2, "ema": 0.9, "clip_norm": 0.5, "patience": 7},
    "micro": {"micro_batch": 4, "optimiser": "lion", "lr": 3e-4, "weight_decay": 0.1},
    "captions": {"captions": 2, "positives": "any", "mask_duplicates": True},
    "apart": {"captions": 3, "positives": "apart", "micro_batch": 5},
    "blocks": {"captions": 2, "mask_duplicates": True, "positives": "mean"},
    "dalip": {"head": "dalip", "options": {"heads": 2, "reduced": 4}},
    "dalip-micro": {"head": "dalip", "options": {"heads": 2, "reduced": 4}, "micro_batch": 3},
    "sail": {"head": "sail", "loss": "sigmoid", "options": {"expansion": 2}, "mask_duplicates": True},
    "dinotxt": {"head": "dinotxt", "loss": "sigmoid-sum", "captions": 2, "options": {"head_width": 4}},
}


def options_of(name):
    small = {"width": 12, "epochs": 7, "batch_size": BATCH, "lr": 3e-3, "dropout": 0.2}
    return {"image": "vision", "text": "words", **small, **CASES[name]}


@contextmanager
def small_blocks(name):
    """Logits in blocks of a few pictures, as of a batch of many thousands."""
    before = clip.PLAIN_LOGITS, blocks.BLOCK_CPU
    if name == "blocks":
        clip.PLAIN_LOGITS, blocks.BLOCK_CPU = 0, 4 * BATCH
    try:
        yield
    finally:
        clip.PLAIN_LOGITS, blocks.BLOCK_CPU = before


def fitted(store, name, out, **options):
    """Loss of every step, and the folder; the weights are float64."""
    losses, before = [], torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with small_blocks(name):
            config = fit_config(**options_of(name) | options.pop("instead", {}))
            result = fit_head(
                store, config, out, device="cpu", on_progress=lambda at: losses.append(at.loss), **options
            )
    finally:
        torch.set_default_dtype(before)
    return losses, result


def main():
    rendezvous, rank, size, store, out = sys.argv[1:]
    torch.set_num_threads(1)
    told = {}
    with joined_world(
        dist.FileStore(rendezvous, int(size)), rank=int(rank), size=int(size), device=CPU
    ) as world:
        for name in CASES:
            cached = "yes" if name == "plain" else "auto"
            losses, result = fitted(store, name, Path(out) / name, world=world, cache_on_device=cached)
            told[name] = {"losses": losses, "kept": result.kept_epoch, "recall": result.recall}
    Path(out, f"told-{rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()

"""One of several processes, started as torchrun starts them; arguments: cases|command STORE OUT [CASE]."""

import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path

import torch

from embedstore.fit import fit_config, fit_head, torchrun_world
from embedstore.losses import blocks, clip

BATCH = 21
LONG = 7
DALIP = {"head": "dalip", "options": {"heads": 2, "reduced": 4}}
CASES = {
    "plain": {"dropout": 0.0, "epochs": LONG},
    "dropout": {"val_fraction": 0.2, "ema": 0.9, "clip_norm": 0.5, "patience": LONG, "epochs": LONG},
    "micro": {"micro_batch": 4, "optimiser": "lion", "lr": 3e-4, "weight_decay": 0.1, "epochs": LONG},
    "dalip": {**DALIP, "epochs": LONG},
    "dalip-micro": {**DALIP, "micro_batch": 3},
    "captions": {"captions": 2, "positives": "any", "mask_duplicates": True},
    "apart": {"captions": 3, "positives": "apart", "micro_batch": 5},
    "blocks": {"captions": 2, "mask_duplicates": True, "positives": "mean"},
    "sail": {"head": "sail", "loss": "sigmoid", "options": {"expansion": 2}, "mask_duplicates": True},
    "dinotxt": {"head": "dinotxt", "loss": "sigmoid-sum", "captions": 2, "options": {"head_width": 4}},
}


def options_of(name):
    small = {"width": 12, "epochs": 2, "batch_size": BATCH, "lr": 3e-3, "dropout": 0.2}
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


def fitted(store, name, out, *, instead=None, **options):
    """The loss of every step, and the result; all in float64."""
    losses, before = [], torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    config = fit_config(**options_of(name) | (instead or {}))
    try:
        with small_blocks(name):
            result = fit_head(
                store, config, out, device="cpu", on_progress=lambda at: losses.append(at.loss), **options
            )
    finally:
        torch.set_default_dtype(before)
    return losses, result


def command(store, out, name):
    """The public command, with float64 for its default type."""
    from embedstore_cli import app

    torch.set_default_dtype(torch.float64)
    options = [f"--{key.replace('_', '-')}={value}" for key, value in options_of(name).items()]
    sys.argv = ["embedstore", "fit", store, f"--out={out}/{name}", "--device=cpu", "--json", *options]
    app.main()


def cases(store, out):
    rank, told = os.environ["RANK"], {}
    with torchrun_world("cpu") as world:
        for name in CASES:
            cached = "yes" if name == "plain" else "auto"
            losses, result = fitted(store, name, Path(out) / name, world=world, cache_on_device=cached)
            told[name] = {
                "losses": losses,
                "kept": result.kept_epoch,
                "recall": result.recall,
                "loss": result.loss,
                "images": result.images,
                "sha256": result.head.weights_sha256,
            }
            if name == "plain":
                Path(out, f"cached-{rank}").write_text(str(result.cached_bytes))
        Path(out, f"told-{rank}.json").write_text(json.dumps(told))
        world.total(torch.zeros(3))
        if rank == "1":
            # As a process that the system kills: no word, no goodbye.
            os._exit(9)
        world.total(torch.zeros(3))


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, *arguments = sys.argv[1:]
    {"cases": cases, "command": command}[what](*arguments)

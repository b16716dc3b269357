"""Train the demo image encoder: a small ViT taught by rendered scenes alone, no captions, no labels.

    python -m embedstore.recipes.train_demo_encoder --out DIR

makes a folder that transformers opens as a `Dinov2Model` with its image processor; with the default options
it is how `embedstore/encoders/data/vit-scenes` was made. How it learns stands in `scene_pretraining`.

The last lines are a linear probe on mean-pooled tokens for facts of the scenes, beside the same network with
random weights. Facts serve the probe only, never the training.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everybody knows

from embedstore.errors import UsageError
from embedstore.recipes.scene_pretraining import TrainConfig, check, new_encoder, train
from embedstore.recipes.scene_views import IMAGE_SIZE, MEAN, STD, normalised, render

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from embedstore.recipes.scene_pretraining import Encoder
    from embedstore.sources.scenes.world import Scene

PROBE_SEED = 1
"""Scenes of this seed are probed; training scenes come from another one."""
PROBED: dict[str, Callable[[Scene], str]] = {
    "shape": lambda scene: scene.main.shape,
    "colour": lambda scene: scene.main.colour,
    "texture": lambda scene: scene.main.texture,
    "background colour": lambda scene: scene.ground_colour,
    "background pattern": lambda scene: scene.ground_pattern,
}


@torch.inference_mode()
def probe(encoder: Encoder, count: int = 2000) -> dict[str, float]:
    """Share of held-out scenes whose fact a linear probe on mean-pooled tokens reads right, by fact.

    Ridge regression on one-hot targets, fitted on the first 70 % of `count` scenes of `PROBE_SEED`.
    """
    pixels, scenes = render(PROBE_SEED, 0, count)
    chunks = [encoder(normalised(part)).last_hidden_state[:, 1:].mean(1) for part in torch.split(pixels, 100)]
    features, fitted = torch.cat(chunks).double(), round(0.7 * count)
    known = features[:fitted]
    features = (features - known.mean(0)) / (known.std(0) + 1e-6)
    gram = features[:fitted].T @ features[:fitted] + 30 * torch.eye(features.shape[1], dtype=torch.float64)
    shares = {}
    for name, fact in PROBED.items():
        values = [fact(scene) for scene in scenes]
        names = sorted(set(values))
        target = torch.tensor([names.index(v) for v in values])
        hot = F.one_hot(target[:fitted], len(names)).double()
        weights = torch.linalg.solve(gram, features[:fitted].T @ (hot - hot.mean(0)))
        guess = (features[fitted:] @ weights + hot.mean(0)).argmax(1)
        shares[name] = (guess == target[fitted:]).double().mean().item()
    return shares


def save(encoder: Encoder, folder: Path, config: TrainConfig, table: str) -> None:
    """Write weights, config, image processor and model card, as `from_pretrained` reads them."""
    from transformers import BitImageProcessor

    folder.mkdir(parents=True, exist_ok=True)
    encoder.save_pretrained(folder)
    BitImageProcessor(
        do_resize=True,
        size={"shortest_edge": IMAGE_SIZE},
        resample=3,
        do_center_crop=True,
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=list(MEAN),
        image_std=list(STD),
        do_convert_rgb=True,
    ).save_pretrained(folder)
    options = json.dumps(asdict(config))
    (folder / "README.md").write_text(_CARD.format(table=table, options=options), encoding="utf-8")


_CARD = """---
license: apache-2.0
library_name: transformers
---

# vit-scenes

A small image encoder in the DINOv2 architecture for demos and tests of embedstore. It was trained on
rendered scenes alone, self-supervised, without captions or labels, by
`embedstore.recipes.train_demo_encoder`. It knows coloured shapes; it is not meant for photographs.

Input 112 × 112 pixels, patches of 14, so 64 patch tokens and CLS; train only heads on it.

Share of held-out scenes read right by a linear probe on mean-pooled patch tokens:

{table}

Options of the training run: `{options}`
"""


def figures(trained: dict[str, float], untrained: dict[str, float]) -> str:
    """The probe as a Markdown table, in percent."""
    lines = ["| fact of the main object | trained | random weights |", "| --- | --- | --- |"]
    lines += [f"| {name} | {100 * trained[name]:.1f} % | {100 * untrained[name]:.1f} % |" for name in trained]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, probe, save; progress and figures go to standard output."""
    parser = argparse.ArgumentParser(prog="python -m embedstore.recipes.train_demo_encoder")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; made if it is missing")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; more give slightly other sums")
    parser.add_argument("--probe-scenes", type=int, default=2000, help="scenes of the final linear probe")
    for field in fields(TrainConfig):
        kind = type(field.default)
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    options = vars(parser.parse_args(arguments))
    out, threads, count = options.pop("out"), options.pop("threads"), options.pop("probe_scenes")
    config = TrainConfig(**options)
    check(config)
    for where, value, least in (("--threads", threads, 1), ("--probe-scenes", count, 20)):
        if value < least:
            raise UsageError("the number is too small", where=where, found=value, allowed=f"{least} or more")
    torch.set_num_threads(threads)
    torch.manual_seed(config.seed)
    untrained = probe(new_encoder(config).eval(), count)
    encoder = train(config, _say)
    table = figures(probe(encoder, count), untrained)
    save(encoder, out, config, table)
    _say(table)
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)

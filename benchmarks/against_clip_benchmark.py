"""Retrieval and zero-shot beside CLIP_benchmark's own code, on the same embeddings.

    python benchmarks/against_clip_benchmark.py STORE --head DIR [--split test] [--templates FILE]

Its `zeroshot_retrieval.evaluate` and `zeroshot_classification.evaluate` get a model whose `encode_image` and
`encode_text` give the head's embeddings of the store's rows; class prompts go through the text encoder and
the head, one class at a time. Prints both figures and their difference; exits with 1 where one is above 1e-6.
Without the package it says how to install it and does nothing:

    pip install --no-deps clip-benchmark "numpy<2.4"

in an environment of its own: release 1.6.2 makes numbers of arrays as NumPy 2.4 no longer allows.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedstore.bench import measure_retrieval, measure_zeroshot, read_lines
from embedstore.bench.figures import RECALL_AT
from embedstore.bench.prompts import speaker_of
from embedstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embedstore.bench.measured import Measured
    from embedstore.bench.prompts import Speaker
    from embedstore.shapes import Float32Array

TOLERANCE = 1e-6
BATCH = 64


class Captions:
    """A model of known embeddings: an image comes as its embedding, a text as its number."""

    def __init__(self, texts: Float32Array) -> None:
        self._texts = torch.from_numpy(texts)

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """As they come `(b, e)`."""
        return images

    def tokenizer(self, texts: list[str]) -> torch.Tensor:
        """Numbers of texts `(b,)`."""
        return torch.tensor([int(text) for text in texts])

    def encode_text(self, numbers: torch.Tensor) -> torch.Tensor:
        """Embeddings `(b, e)`."""
        return self._texts[numbers]


class Prompts:
    """A model whose images come as their embeddings; its texts go through the text encoder and the head."""

    def __init__(self, speaker: Speaker) -> None:
        self._speaker = speaker
        self._ids: list[Any] = []

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """As they come `(b, e)`."""
        return images

    def tokenizer(self, texts: list[str]) -> torch.Tensor:
        """Their numbers `(b,)`; the token ids, of unequal lengths, are kept for `encode_text`."""
        self._ids, _ = self._speaker.encoder.prepare(texts)
        return torch.arange(len(texts))

    def encode_text(self, numbers: torch.Tensor) -> torch.Tensor:
        """Embeddings `(b, e)` of the texts that were given last."""
        return self._speaker.vectors([self._ids[number] for number in numbers.tolist()]).float()


class Loader:
    """Batches of `(images, targets)` of a data set with `classes`."""

    def __init__(self, images: Float32Array, targets: list[Any], classes: list[str]) -> None:
        self.images, self.targets = torch.from_numpy(images), targets
        self.dataset = SimpleNamespace(classes=classes)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, Any]]:
        for at in range(0, len(self.images), BATCH):
            part = self.targets[at : at + BATCH]
            yield self.images[at : at + BATCH], part if isinstance(part[0], list) else torch.tensor(part)


def retrieval(measured: Measured, evaluate: Any) -> dict[str, tuple[float, float]]:
    """Metric -> (ours, theirs)."""
    found, metrics = measured.found, measured.report.metrics
    owners = found.pairs.offsets
    texts = [[str(k) for k in range(low, high)] for low, high in itertools.pairwise(owners)]
    model, pairs = Captions(found.texts), Loader(found.images, texts, [])
    theirs = evaluate(model, pairs, model.tokenizer, "cpu", amp=False, recall_k_list=list(RECALL_AT))
    return {
        name: (metrics[direction][f"recall@{k}"].value, theirs[name])
        for direction, kind in (("text_to_image", "image"), ("image_to_text", "text"))
        for k in RECALL_AT
        for name in (f"{kind}_retrieval_recall@{k}",)
    }


def zeroshot(measured: Measured, evaluate: Any) -> dict[str, tuple[float, float]]:
    """Metric -> (ours, theirs); acc5 only where there are five classes, as theirs."""
    found = measured.found
    words = [own.words for own in found.classes]
    templates = [form.replace("{}", "{c}") for form in found.templates]
    model = Prompts(speaker_of(found.setting))
    images = Loader(found.setting.embed_images(found.rows), found.labels.tolist(), words)
    theirs = evaluate(model, images, model.tokenizer, words, templates, "cpu", amp=False)
    ours = measured.report.metrics["image_to_class"]
    names = {"acc1": "top-1", "acc5": "top-5", "mean_per_class_recall": "mean-per-class"}
    return {
        theirs_name: (ours[name].value, theirs[theirs_name])
        for theirs_name, name in names.items()
        if not np.isnan(theirs[theirs_name])
    }


def main() -> int:
    """Compare, print, and tell by the exit code."""
    options = argparse.ArgumentParser(description="Ours beside CLIP_benchmark's, on the same embeddings.")
    options.add_argument("store")
    options.add_argument("--head", required=True)
    options.add_argument("--split", default="test")
    options.add_argument("--classes", type=Path, help="class names, one a line; none: the store's labels")
    options.add_argument("--templates", type=Path, help="prompts, one a line, with {}")
    options.add_argument("--json", action="store_true")
    given = options.parse_args()
    try:
        from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
    except ModuleNotFoundError as absent:
        print(f'skipped: no module {absent.name!r}; pip install --no-deps clip-benchmark "numpy<2.4"')
        return 0
    split = None if given.split == "all" else given.split
    found = retrieval(measure_retrieval(given.store, given.head, split=split), zeroshot_retrieval.evaluate)
    try:
        measured = measure_zeroshot(
            given.store,
            given.head,
            split=split,
            classes=given.classes and read_lines(given.classes),
            templates=given.templates and read_lines(given.templates),
        )
    except UsageError as bad:
        print(f"no zero-shot: {bad.problem}", file=sys.stderr)
    else:
        found |= zeroshot(measured, zeroshot_classification.evaluate)
    worst = max(abs(ours - theirs) for ours, theirs in found.values())
    if given.json:
        print(json.dumps({name: {"ours": a, "clip_benchmark": b} for name, (a, b) in found.items()}))
    else:
        for name, (ours, theirs) in found.items():
            print(f"{name:28} ours {ours:.7f}  CLIP_benchmark {theirs:.7f}  {ours - theirs:+.1e}")
        print(f"largest difference {worst:.1e}, allowed {TOLERANCE:.0e}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())

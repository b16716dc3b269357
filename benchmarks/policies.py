"""What each storage policy costs and saves: bytes a picture, decode rate, cosine error, Recall@1 of a head.

One store of real captions is encoded once as float16, recoded under every policy, and a token head is fitted
from each recoded image feature with the same seeds. The store is `--store PATH`, or is made of
`../shared/data/flickr8k-1k` where that folder is there, and of rendered scenes otherwise and for `--quick`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from common import Row, main, timed

from embedstore.bench import bench_retrieval
from embedstore.documents import FitConfig
from embedstore.encode import EncodeOptions, encode_source, recode_feature
from embedstore.fit import fit_head
from embedstore.store import open_store
from embedstore.stream.batches import ImageReader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedstore.store import Feature

SHARED = Path(__file__).parents[2] / "shared" / "data"
POLICIES = (
    "bfloat16",
    "int8",
    "fp8",
    "pool-2x2",
    "pool-2x2+int8",
    "merge-64",
    "merge-32",
    "merge-16",
    "merge-8",
    "merge-4",
    "merge-2",
    "merge-1",
    "merge-32+int8",
    "merge-8+int8",
    "merge-4+int8",
    "merge-2+int8",
    "pca-64",
    "pca-64+int8",
    "pq-16",
    "merge-32+pq-16+int8",
    "cls+mean",
    "cls+mean+int8",
)
QUICK = ("int8", "merge-8", "cls+mean")
DECODED = 256
REPEATS = 5


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The store, its float16 features, and how heads are fitted from them."""

    store: Path
    image: str
    text: str
    epochs: int
    batch: int
    lr: float
    pooling: Literal["mean", "max"]
    seeds: int

    def recall(self, image: str, out: Path) -> list[float]:
        """Recall@1 on the test split in percent, mean of both directions, one figure a seed."""
        found = []
        for seed in range(self.seeds):
            config = FitConfig(
                image=image,
                text=self.text,
                split="train",
                width=256,
                epochs=self.epochs,
                batch_size=self.batch,
                lr=self.lr,
                image_pooling=self.pooling,
                seed=seed,
            )
            fit_head(self.store, config, out, overwrite=True)
            both = bench_retrieval(self.store, out, split="test").metrics
            found.append(100 * statistics.mean(way["recall@1"].value for way in both.values()))
        return found


def stored_bytes(feature: Feature) -> int:
    """Bytes a picture of everything but thumbnails."""
    return sum(feature.array(name).place_bytes for name in feature.arrays)


def decode_rate(feature: Feature) -> float:
    """GB/s of float32 tokens from stored ones in memory, the median of a few rounds."""
    reader, rows = ImageReader(feature), np.arange(min(DECODED, feature.rows))
    stored = reader.read(rows, reader.buffers(len(rows)))
    device = torch.device("cpu")

    def decode() -> torch.Tensor:
        return stored.to(device).tokens.float()

    decoded = decode()
    spent = statistics.median(timed(decode) for _ in range(REPEATS))
    return decoded.numel() * decoded.element_size() / spent / 1e9


def cosine_error(plain: Feature, feature: Feature) -> tuple[float, str]:
    """1 − cosine of tokens before and after; of their weighted means where there are fewer tokens."""
    rows = np.arange(min(DECODED, plain.rows))
    rows = rows[plain.gather("status", rows) == 0]
    x, y = plain.decoded("tokens", rows), feature.decoded("tokens", rows)
    what = "tokens"
    if x.shape != y.shape:
        weights = feature.gather("weights", rows) if "weights" in feature.arrays else None
        shares = np.full(y.shape[:2], 1 / y.shape[1]) if weights is None else weights
        x, y, what = x.mean(axis=1), np.einsum("bt,btd->bd", shares, y), "means of a picture's tokens"
    norms = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    return float(1 - ((x * y).sum(-1) / norms).mean()), what


def measure_policies(setting: Setting, policies: Sequence[str], folder: Path) -> list[Row]:
    """Four rows for each policy, against float16."""
    plain = open_store(setting.store)[setting.image]
    base = setting.recall(setting.image, folder / "head")
    spread = f"float16 {_figures(base)}"
    rows = []
    for policy in policies:
        name = "as-" + policy.replace("+", "-")
        started = time.perf_counter()
        recode_feature(setting.store, setting.image, policy=policy, name=name)
        spent = time.perf_counter() - started
        feature = open_store(setting.store)[name]
        ours, reference = stored_bytes(feature), stored_bytes(plain)
        error, what = cosine_error(plain, feature)
        found = setting.recall(name, folder / "head")
        sys.stderr.write(f"{policy}: recall@1 {_figures(found)}; {spread}{_noise(found, base)}\n")
        shape = feature.array("tokens").spec.shape
        rows += [
            Row(
                name=f"{policy}-bytes",
                ratio=reference / ours,
                meaning="bytes reference/ours",
                reference=f"float16, {reference} bytes a picture",
                detail=f"{ours} bytes a picture, tokens {shape[1:]}, recoded at {plain.rows / spent:.0f}/s",
            ),
            Row(
                name=f"{policy}-decode",
                ratio=decode_rate(feature),
                meaning="GB/s",
                reference="none",
                detail=f"of float32 tokens, {torch.get_num_threads()} threads, from memory",
            ),
            Row(name=f"{policy}-cosine", ratio=error, meaning="1 - cosine", reference="float16", detail=what),
            Row(
                name=f"{policy}-recall",
                ratio=statistics.mean(found) - statistics.mean(base),
                meaning="points of recall@1",
                reference=spread,
                detail=f"{_figures(found)}; {setting.seeds} seeds, test split, mean of both directions"
                + _noise(found, base),
            ),
        ]
    return rows


def _noise(found: Sequence[float], base: Sequence[float]) -> str:
    """Standard error of the difference; heads of one seed begin the same."""
    each = [a - b for a, b in zip(found, base, strict=True)]
    return f", standard error {statistics.stdev(each) / len(each) ** 0.5:.2f}" if len(each) > 1 else ""


def _figures(values: Sequence[float]) -> str:
    return ", ".join(f"{v:.1f}" for v in values)


def make_store(folder: Path, *, quick: bool) -> tuple[Path, str]:
    """Encode captions once as float16; the store and its image feature."""
    captions, vision = SHARED / "flickr8k-1k" / "captions.csv", SHARED / "vit-tiny-in1k"
    source = "scenes:300?seed=0" if quick or not captions.is_file() else str(captions)
    image = f"vit-tiny-in1k=hf:{vision}" if vision.is_dir() else "vit-scenes=demo:vit-scenes"
    store = folder / "store"
    options = EncodeOptions(thumbnails=0)
    encode_source(
        source, store, image_encoders=[image], text_encoders=["minilm=demo:minilm"], options=options
    )
    return store, image.partition("=")[0]


def measure(
    *,
    quick: bool,
    store: Path | None,
    image: str,
    text: str,
    seeds: int,
    batch: int,
    lr: float,
    pooling: Literal["mean", "max"],
    policies: Sequence[str] | None,
) -> list[Row]:
    """Make or open the store and measure the policies, or a choice of them."""
    with tempfile.TemporaryDirectory(prefix="embedstore-policies-") as made:
        folder = Path(made)
        place, name = (store, image) if store is not None else make_store(folder, quick=quick)
        setting = Setting(
            store=place,
            image=name,
            text=text,
            epochs=5 if quick else 20,
            batch=100 if quick else batch,
            lr=lr,
            pooling=pooling,
            seeds=1 if quick else seeds,
        )
        return measure_policies(setting, policies or (QUICK if quick else POLICIES), folder)


if __name__ == "__main__":
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--store", type=Path, help="a float16 store; features are added")
    own.add_argument("--image", default="vit-tiny-in1k", help="image feature of --store")
    own.add_argument("--text", default="minilm", help="text feature of --store")
    own.add_argument("--batch", type=int, default=200)
    own.add_argument("--lr", type=float, default=1e-3, help="highest learning rate")
    own.add_argument("--pooling", choices=("mean", "max"), default="mean", help="of the head's patches")
    own.add_argument("--seeds", type=int, default=3, help="heads fitted from each policy")
    own.add_argument("--policies", nargs="+", help="these in place of the usual ones")
    given, rest = own.parse_known_args()
    main(
        lambda quick: measure(quick=quick, **vars(given)),
        description=f"{__doc__}\nOwn options: --store PATH, --image NAME, --text NAME, --batch N, --lr X, "
        "--pooling mean|max, --seeds N, --policies NAME ...",
        argv=rest,
    )

"""What each storage policy costs and saves: bytes a picture, read rate, cosine error, Recall@1 of a head.

The study of `embedstore bench policies`, for more policies: one store of real captions is encoded once as
float16, and recoded and fitted under every policy with the same seeds. The store is `--store PATH`, or is
made of `../shared/data/flickr8k-1k` where that folder is there, and of rendered scenes otherwise and for
`--quick`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

sys.path.insert(0, str(Path(__file__).parent))
from common import Row, main

from embedstore.documents import FitConfig
from embedstore.encode import EncodeOptions, encode_source
from embedstore.recipes.policy_study import study_policies

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedstore.documents import PolicyFigures

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


def rows_of(found: PolicyFigures, base: PolicyFigures) -> list[Row]:
    """Four rows for a policy, against the stored one."""
    change = found.recall.change
    if change is None:
        return []
    interval = f"95 % interval of the change {100 * change.low:+.1f} to {100 * change.high:+.1f}"
    seeds, of_base = (", ".join(f"{100 * v:.1f}" for v in p.recall.seeds) for p in (found, base))
    return [
        Row(
            name=f"{found.policy}-bytes",
            ratio=base.bytes / found.bytes,
            meaning="bytes reference/ours",
            reference=f"{base.policy}, {base.bytes} bytes a picture",
            detail=f"{found.bytes} bytes a picture, tokens {found.tokens}",
        ),
        Row(
            name=f"{found.policy}-read",
            ratio=found.pictures_per_second / base.pictures_per_second,
            meaning="pictures/s ours/reference",
            reference=f"{base.policy}, {base.pictures_per_second:.0f} pictures/s",
            detail=f"{found.pictures_per_second:.0f} pictures/s from the page cache to float32 tokens",
        ),
        Row(
            name=f"{found.policy}-cosine",
            ratio=found.cosine_error,
            meaning="1 - cosine",
            reference=base.policy,
            detail=found.cosine_of,
        ),
        Row(
            name=f"{found.policy}-recall",
            ratio=100 * change.value,
            meaning="points of recall@1",
            reference=f"{base.policy} {of_base}",
            detail=f"{seeds}; {interval}",
        ),
    ]


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
        place, name = (store, image) if store is not None else make_store(Path(made), quick=quick)
        config = FitConfig(
            image=name,
            text=text,
            split="train",
            width=256,
            epochs=5 if quick else 20,
            batch_size=100 if quick else batch,
            lr=lr,
            image_pooling=pooling,
        )
        study = study_policies(
            place,
            config,
            policies=policies or (QUICK if quick else POLICIES),
            seeds=1 if quick else seeds,
            on_progress=lambda what, done, total: sys.stderr.write(f"{done} of {total} heads: {what}\n"),
        )
        return [row for found in study.policies for row in rows_of(found, study.policies[0])]


if __name__ == "__main__":
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--store", type=Path, help="a float16 store, which stays as it is")
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

"""Whether block order mixes as well as a full shuffle: Recall@1 of heads fitted either way, in seed noise.

Blocks and groups are cut for a thousand pictures more coarsely than the defaults cut a large store: a batch
draws from fewer blocks, and an epoch has several groups. Rows lie as they are stored, and, the hard case,
sorted by kin (along the first principal direction of their pooled embeddings), so that the rows of a block
are alike. Fitting in that order without any shuffle shows what bad mixing costs.

The store is `--store PATH`, or is made of `../shared/data/flickr8k-1k` where that folder is there, and of
rendered scenes otherwise and for `--quick`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from common import Row, main
from policies import make_store

from embedstore.bench import bench_retrieval
from embedstore.documents import FitConfig
from embedstore.fit import fit_head
from embedstore.store import EpochPlan, Store, epoch_plan, open_store
from embedstore.stream.pairs import PairStream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedstore.store import Done

BLOCK, GROUP, BATCH = 4, 100, 50


class Arranged(PairStream):
    """Pairs whose rows lie in another order than the store's, cut into blocks and groups of given sizes."""

    def __init__(
        self, store: Store, *, block: int, group: int, kin: bool, rows: np.ndarray, **options: Any
    ) -> None:
        super().__init__(store, rows=rows, **options)
        self._sizes = {"block_rows": block, "group_rows": group}
        self._arranged = by_kin(store, options["image"], self.rows) if kin else self.rows

    def plan(self, epoch: int, done: Sequence[Done] = ()) -> EpochPlan:
        """Positions as the order draws them, in place of which the arranged rows come."""
        return epoch_plan(
            self._arranged,
            seed=self.seed,
            epoch=epoch,
            batch=self.batch_size,
            least=2,
            shuffle=self.shuffle,
            done=done,
            **self._sizes,
        )


def by_kin(store: Store, image: str, rows: np.ndarray) -> np.ndarray:
    """Rows along the first principal direction of their pooled embeddings."""
    pooled = store[image].decoded("pooled", rows).astype(np.float64)
    pooled -= pooled.mean(axis=0)
    direction = np.linalg.svd(pooled, full_matrices=False)[2][0]
    return rows[np.argsort(pooled @ direction, kind="stable")]


@dataclass(frozen=True, kw_only=True)
class Study:
    """A store, how a head is fitted on it, and where heads go."""

    store: Path
    config: FitConfig
    out: Path
    seeds: int
    block: int = BLOCK
    group: int = GROUP

    def recalls(self, shuffle: str, *, kin: bool) -> list[float]:
        """Recall@1 on the test split in percent, mean of both directions, one figure a seed."""
        found = []
        make = partial(Arranged, block=self.block, group=self.group, kin=kin, shuffle=shuffle)
        for seed in range(self.seeds):
            config = self.config.model_copy(update={"seed": seed})
            fit_head(self.store, config, self.out, overwrite=True, make_stream=make)
            both = bench_retrieval(self.store, self.out, split="test").metrics
            found.append(100 * statistics.mean(way["recall@1"].value for way in both.values()))
        return found

    def blocks_in_a_batch(self) -> float:
        """From how many blocks a batch draws, the mean over an epoch."""
        stream = Arranged(
            open_store(self.store),
            block=self.block,
            group=self.group,
            kin=False,
            rows=np.arange(open_store(self.store).plan.images),
            image=self.config.image,
            text=self.config.text,
            batch_size=self.config.batch_size,
        )
        plan = stream.plan(0)
        place = np.empty(stream.rows.max() + 1, np.int64)
        place[stream.rows] = np.arange(len(stream.rows))
        cuts = zip(plan.batches[:-1], plan.batches[1:], strict=True)
        return statistics.mean(len(np.unique(place[plan.rows[a:b]] // self.block)) for a, b in cuts)


def difference(ours: Sequence[float], reference: Sequence[float]) -> tuple[float, float]:
    """Mean difference and its standard error; heads of one seed begin the same either way."""
    each = [a - b for a, b in zip(ours, reference, strict=True)]
    return statistics.mean(each), statistics.stdev(each) / len(each) ** 0.5


def measure_mixing(study: Study) -> list[Row]:
    """Block order against a full shuffle, rows as stored and by kin; and no shuffle at all, by kin."""
    full = study.recalls("full", kin=False)
    rows = []
    for name, shuffle, kin in (("stored", "blocks", False), ("kin", "blocks", True), ("none", "none", True)):
        found = study.recalls(shuffle, kin=kin)
        change, noise = difference(found, full)
        rows.append(
            Row(
                name=f"mixing-{name}",
                ratio=change,
                meaning="points of recall@1",
                reference=f"full shuffle {_figures(full)}",
                detail=(
                    f"{_figures(found)}; standard error of the difference {noise:.2f}, {study.seeds} seeds; "
                    f"batch {study.config.batch_size}, blocks of {study.block}, groups of {study.group}, "
                    f"{study.blocks_in_a_batch():.0f} blocks a batch"
                ),
            )
        )
    return rows


def _figures(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def measure(*, quick: bool, store: Path | None, image: str, seeds: int, epochs: int) -> list[Row]:
    """Make or open the store and compare the orders."""
    with tempfile.TemporaryDirectory(prefix="embedstore-mixing-") as made:
        folder = Path(made)
        place, name = (store, image) if store is not None else make_store(folder, quick=quick)
        config = FitConfig(
            image=name,
            text="minilm",
            split="train",
            width=256,
            epochs=4 if quick else epochs,
            batch_size=BATCH,
        )
        return measure_mixing(
            Study(store=place, config=config, out=folder / "head", seeds=2 if quick else seeds)
        )


if __name__ == "__main__":
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--store", type=Path, help="a store with a feature minilm")
    own.add_argument("--image", default="vit-tiny-in1k", help="image feature of --store")
    own.add_argument("--seeds", type=int, default=5, help="heads fitted in each order")
    own.add_argument("--epochs", type=int, default=20)
    given, rest = own.parse_known_args()
    main(
        lambda quick: measure(quick=quick, **vars(given)),
        description=f"{__doc__}\nOwn options: --store PATH, --image NAME, --seeds N, --epochs N",
        argv=rest,
    )

"""Whether a concept-balanced subset of a long-tailed pool teaches rare concepts better than a random one.

Scenes whose shapes have a power law, one caption each, are the pool. The same head is fitted with the same
steps on what `collect` takes, on as many random scenes and on the whole pool, and names the shapes of scenes
of another seed, where all shapes are equally frequent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from embedstore.fit import Member, SweepProgress
    from embedstore.shapes import FloatArray, IntArray
    from embedstore.store import Store

IMAGE, TEXT, CONCEPTS = "vision", "words", "shapes"
TEMPLATES = ("a picture of a {}.", "a large {}.", "there is a {} in the picture.")
COLLECTED, RANDOM, POOL = "collected", "random", "pool"
ORDERS = {COLLECTED: "rare-first", "common-first": "common-first", "any-order": "random"}
SETS = {
    COLLECTED: "collected, rarest concept first",
    "common-first": "collected, most common first",
    "any-order": "collected, concepts in random order",
    RANDOM: "random, as many",
    POOL: "the whole pool, as many steps",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Every number of the study, and the encoders. The weight of the k-th shape is k^-tail."""

    scenes: int = 7680
    tail: float = 1.5
    tests: int = 1500
    pool_seed: int = 0
    test_seed: int = 1
    keep: int = 1250
    per_concept: int = 96
    epochs: int = 20
    batch_size: int = 64
    lr: float = 3e-3
    width: int = 256
    seeds: int = 5
    image_encoder: str = "demo:vit-scenes"
    text_encoder: str = "demo:minilm"

    @property
    def pool(self) -> str:
        """The source that is chosen from."""
        return f"scenes:{self.scenes}?seed={self.pool_seed}&tail={self.tail:g}&captions=1"

    @property
    def test(self) -> str:
        """The source that is measured on."""
        return f"scenes:{self.tests}?seed={self.test_seed}&captions=1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What was measured, over c classes, s seeds and q test pictures.

    pool `(c,)`: pictures of each class; rare: the third of the classes with the fewest; rows: name of a set
    to its pictures of each class `(s, c)`; labels `(q,)`; right: name of a set to 0 or 1 `(s, q)`; agree:
    share of the collected pictures whose class is the concept that they were taken for; shared: share of the
    collected pictures that another order takes too, mean over seeds; steps: those of a fit on each set.
    """

    classes: tuple[str, ...]
    pool: IntArray
    rare: IntArray
    rows: Mapping[str, IntArray]
    labels: IntArray
    right: Mapping[str, FloatArray]
    agree: float
    shared: Mapping[str, float]
    steps: Mapping[str, int]

    def recall(self, name: str) -> FloatArray:
        """Of each seed and class, `(s, c)`; NaN for a class without a test picture."""
        right, found = self.right[name], np.full((len(self.right[name]), len(self.classes)), np.nan)
        for label in np.unique(self.labels):
            found[:, label] = right[:, self.labels == label].mean(axis=1)
        return found

    def mean_per_class(self, name: str, of: IntArray | None = None) -> FloatArray:
        """Of each seed `(s,)`, over the classes `of`; none: all that have a test picture."""
        found: FloatArray = np.nanmean(self.recall(name)[:, slice(None) if of is None else of], axis=1)
        return found

    def to_dict(self) -> dict[str, Any]:
        """A JSON value: the figures of every set and seed."""
        return {
            "classes": list(self.classes),
            "pool": self.pool.tolist(),
            "rare": [self.classes[c] for c in self.rare],
            "agree": self.agree,
            "shared": dict(self.shared),
            "steps": dict(self.steps),
            "rows": {name: rows.tolist() for name, rows in self.rows.items()},
            "mean_per_class": {
                name: {
                    "rare": self.mean_per_class(name, self.rare).tolist(),
                    "all": self.mean_per_class(name).tolist(),
                }
                for name in self.right
            },
        }


@dataclass(slots=True)
class CollectionStudy:
    """One run: encode, choose, fit and measure seed by seed, write the page and its chart beside it.

    `out` keeps the stores and the heads: what is there is not made again. `MissingExtraError` without MiniLM.
    """

    out: Path
    page: Path
    recipe: Recipe = field(default_factory=Recipe)
    device: str = "auto"
    say: Callable[[str], None] = print

    def run(self) -> Outcome:
        """Everything; the figures as they stand in the page."""
        from embedstore.bench.report import check_place, write_text
        from embedstore.recipes.collection_page import study_chart, study_page

        check_place(self.page)
        texts = (f"{TEXT}={self.recipe.text_encoder}",)
        pool, test = self.encoded("pool", self.recipe.pool, texts), self.encoded("test", self.recipe.test, ())
        found = self.measured(pool, test)
        write_text(study_chart(found), self.page.with_suffix(".svg"))
        write_text(study_page(found, self.recipe, chart=self.page.with_suffix(".svg").name), self.page)
        self.say(f"written: {self.page}")
        return found

    def encoded(self, name: str, source: str, text_encoders: tuple[str, ...]) -> Store:
        """A store of scenes; a finished one is left as it is."""
        from embedstore.encode import EncodeOptions, encode_source
        from embedstore.store import open_store

        self.out.mkdir(parents=True, exist_ok=True)
        self.say(f"encode {source}")
        store = self.out / f"{name}.store"
        encode_source(
            source,
            store,
            image_encoders=[f"{IMAGE}={self.recipe.image_encoder}"],
            text_encoders=text_encoders,
            options=EncodeOptions(device=self.device, thumbnails=0),
        )
        return open_store(store)

    def measured(self, pool: Store, test: Store) -> Outcome:
        """Choose, fit and measure; the figures."""
        from embedstore.curate import prototypes_of_texts

        prototypes = prototypes_of_texts(
            pool, CONCEPTS, templates=TEMPLATES, feature=TEXT, device=self.device, overwrite=True
        )
        classes = prototypes.card.concepts
        place = {name: c for c, name in enumerate(classes)}
        own = np.array([place[label] for label in pool.images(["label"])["label"].to_pylist()])
        count = np.bincount(own, minlength=len(classes))
        rows: dict[str, list[IntArray]] = {name: [] for name in SETS}
        right: dict[str, list[FloatArray]] = {name: [] for name in SETS}
        steps: dict[str, int] = {}
        for seed in range(self.recipe.seeds):
            chosen = self.choose(pool, seed)
            for name, images in chosen.items():
                rows[name].append(images)
            steps = self.fit(pool, {name: len(images) for name, images in chosen.items()}, seed)
            for name in SETS:
                labels, hits = self.named(test, name, seed, classes)
                right[name].append(hits)
        agree = self.agreement(pool, [classes[c] for c in own])
        return Outcome(
            classes=classes,
            pool=count,
            rare=np.argsort(count, kind="stable")[: len(classes) // 3],
            rows={
                name: np.stack([np.bincount(own[images], minlength=len(classes)) for images in of])
                for name, of in rows.items()
            },
            labels=labels,
            right={name: np.stack(of) for name, of in right.items()},
            agree=agree,
            shared={
                name: float(
                    np.mean([np.isin(a, b).mean() for a, b in zip(rows[COLLECTED], rows[name], strict=True)])
                )
                for name in ORDERS
                if name != COLLECTED
            },
            steps=steps,
        )

    def choose(self, pool: Store, seed: int) -> dict[str, IntArray]:
        """Subsets of the pool, made anew, with as many pictures in each; name to image rows."""
        from embedstore.curate import collect_rows, sample_rows
        from embedstore.store import choose_rows

        found = {}
        for name, order in ORDERS.items():
            taken = collect_rows(
                pool,
                CONCEPTS,
                rows_of(name, seed),
                feature=TEXT,
                keep=min(self.recipe.keep, pool.plan.texts),
                per_concept=self.recipe.per_concept,
                order=order,  # type: ignore[arg-type] # the words are those of ORDERS of collect
                seed=seed,
                overwrite=True,
            )
            found[name] = choose_rows(pool, taken.subset.name).images(pool)
        drawn = sample_rows(
            pool,
            pool.path.name,
            name=rows_of(RANDOM, seed),
            count=len(found[COLLECTED]),
            seed=seed,
            overwrite=True,
        )
        return {**found, RANDOM: drawn.rows, POOL: np.arange(pool.plan.images)}

    def member(self, name: str, seed: int, epochs: int) -> Member:
        """One fit."""
        from embedstore.fit import Member, fit_config

        recipe = self.recipe
        config = fit_config(
            image=IMAGE,
            text=TEXT,
            rows=None if name == POOL else rows_of(name, seed),
            width=recipe.width,
            epochs=epochs,
            batch_size=recipe.batch_size,
            lr=recipe.lr,
            seed=seed,
        )
        return Member(name=f"{name},seed={seed}", config=config, varied={"rows": name, "seed": seed})

    def fit(self, pool: Store, sizes: Mapping[str, int], seed: int) -> dict[str, int]:
        """The head on every set with one seed, with about as many steps on each; name to steps."""
        from embedstore.errors import HeadError
        from embedstore.fit import fit_sweep

        epochs = {
            name: max(1, round(self.recipe.epochs * sizes[COLLECTED] / size)) for name, size in sizes.items()
        }
        told: set[int] = set()

        def tell(at: SweepProgress) -> None:
            if at.number not in told:
                told.add(at.number)
                self.say(f"  {at.number} of {at.passes}")

        self.say(f"fit {len(SETS)} heads, seed {seed}")
        members = [self.member(name, seed, epochs[name]) for name in SETS]
        result = fit_sweep(pool, members, self.out / "heads", device=self.device, on_progress=tell)
        for member in result.failed:
            raise HeadError(f"{member.name} failed", where="collection-study", found=member.error)
        batch = self.recipe.batch_size
        return {name: epochs[name] * -(-size // batch) for name, size in sizes.items()}

    def named(
        self, test: Store, name: str, seed: int, classes: tuple[str, ...]
    ) -> tuple[IntArray, FloatArray]:
        """Classes of the test pictures `(q,)`, and whether the head names each one rightly `(q,)`."""
        from embedstore.bench.zeroshot import measure_zeroshot

        head = self.out / "heads" / f"{name},seed={seed}"
        found = measure_zeroshot(
            test, head, split=None, classes=classes, templates=TEMPLATES, device=self.device
        ).found
        return found.labels, (found.ranks == 1).astype(np.float64)

    def agreement(self, pool: Store, labels: list[str]) -> float:
        """Share of the collected texts whose picture has their concept as its class."""
        lines = pool.subset(COLLECTED).read(["row", "concept"])
        images = pool.texts(["image"])["image"].to_numpy()[lines["row"].to_numpy()]
        pairs = zip(images, lines["concept"].to_pylist(), strict=True)
        return float(np.mean([labels[image] == concept for image, concept in pairs]))


def rows_of(name: str, seed: int) -> str:
    """The subset of a set; those that no seed decides are the same for all."""
    return name if ORDERS.get(name) in ("rare-first", "common-first") else f"{name}-{seed}"

"""Probes: what a simple classifier, trained on a split's labels, makes of image vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embedstore.bench.figures import class_chance
from embedstore.bench.measured import Measured, report_of, silent
from embedstore.bench.outcomes import Outcomes, image_ids
from embedstore.bench.probing.methods import (
    METHODS,
    NEIGHBOURS,
    REPEATS,
    SHOTS,
    Labelled,
    Probed,
    check_asked,
    knn,
    linear,
)
from embedstore.bench.probing.vectors import open_space
from embedstore.bench.rows import NO_LABEL, select_images
from embedstore.bench.versions import PROBES, versions_of
from embedstore.documents import BenchReport, Figure
from embedstore.encoders.device import device_kind
from embedstore.errors import UsageError
from embedstore.metrics.accuracy import class_recall
from embedstore.metrics.intervals import draws_interval
from embedstore.metrics.statistics import Statistic
from embedstore.metrics.vote import TEMPERATURE
from embedstore.store import choose_rows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from embedstore.bench.probing.methods import Asked, Progress, Shots
    from embedstore.bench.probing.vectors import Space
    from embedstore.shapes import AnyArray, FloatArray, IntArray
    from embedstore.store import Store

OTHER_CLASS = "an image whose label no training image has"


def measure_probe(
    store: Store | str | PathLike[str],
    head_dir: str | PathLike[str] | None = None,
    *,
    on: str | None = None,
    vector: str | None = None,
    image: str | None = None,
    shots: Sequence[Shots] = SHOTS,
    methods: Sequence[str] = METHODS,
    neighbours: Sequence[int] = NEIGHBOURS,
    repeats: int = REPEATS,
    split: str | None = "test",
    train_split: str | None = "train",
    train_rows: str | None = None,
    rows: IntArray | str | None = None,
    device: str = "auto",
    seed: int = 0,
    on_progress: Progress | None = None,
) -> Measured:
    """top-1 and mean-per-class of k-NN and of a linear probe, of a frozen encoder or through a head.

    on: 'encoder' or 'head' (default: the head where one is given); vector: of the encoder 'pooled', 'cls',
    'mean' (of the patches) or 'cls+mean'. All are unit vectors. Groups: `knn-K/SHOTS`, each of the K nearest
    training images votes for its class with `exp(cosine / 0.07)` (DINO's protocol); `linear/SHOTS`,
    scikit-learn's multinomial logistic regression, whose C is chosen among 10^-2 ... 10^5 by the accuracy on
    a fifth of the training images, held out by class; few shots are drawn from the other four. With 'all',
    k-NN reads the whole training split, and the chosen linear probe is fitted on it again.

    shots are drawn `repeats` times and figures are means over the draws. Trained on `train_split` (none:
    every image), which `train_rows` (a subset, a file of ids) narrows; measured on `split`, which `rows`
    narrows. Intervals: 95 % bootstrap over draws and test images, for mean-per-class within each class.
    Raises as `open_space`; `UsageError` for bad options and where an image would be trained and tested on.
    """
    asked = check_asked(shots, methods, neighbours, repeats, seed)
    space = open_space(
        store, head_dir, on=on, vector=vector, split=split, image=image, device=device, rows=rows
    )
    train_chosen = None if train_rows is None else choose_rows(space.store, train_rows).images(space.store)
    found = probe(
        space, asked, split=split, train_split=train_split, train_rows=train_chosen, on_progress=on_progress
    )
    report = probe_report(found, asked, split=split, train_split=train_split, train_rows=train_rows)
    return Measured(report=report, found=found, outcomes=probe_outcomes(found))


bench_probe = report_of(measure_probe)


def probe(
    space: Space,
    asked: Asked,
    *,
    split: str | None,
    train_split: str | None,
    train_rows: IntArray | None = None,
    on_progress: Progress | None = None,
) -> Probed:
    """Select, read, train and predict."""
    told = on_progress or silent
    train, words, _ = _select(space, train_split, train_rows)
    classes = tuple(sorted(set(words)))
    place = {label: c for c, label in enumerate(classes)}
    test, named, skipped = _select(space, split, space.rows)
    known = np.array([label in place for label in named], dtype=bool)
    both = np.intersect1d(train, test)
    if both.size:
        raise UsageError(
            "images would be trained and tested on", found=f"{both.size} images", todo="name another --split"
        )
    if not known.any() or len(classes) < 2:
        raise UsageError(
            "a probe needs training images of two classes, and test images of these",
            found=f"{len(classes)} classes to train, {int(known.sum())} images to test",
        )
    skipped[OTHER_CLASS] = int((~known).sum())
    sides = []
    for what, rows, labels in (("training", train, words), ("test", test[known], np.array(named)[known])):
        told(f"{what} images read", 0, len(rows))
        sides.append(
            Labelled(rows=rows, vectors=space.vectors(rows), labels=np.array([place[w] for w in labels]))
        )
        told(f"{what} images read", len(rows), len(rows))
    found = Probed(space=space, classes=classes, train=sides[0], test=sides[1], skipped=skipped)
    if "knn" in asked.methods:
        knn(found, asked, told)
    if "linear" in asked.methods:
        linear(found, asked, told)
    return found


def _select(
    space: Space, split: str | None, rows: IntArray | None
) -> tuple[IntArray, list[str], dict[str, int]]:
    """Readable images of a split that have a label, their labels, and how many were left out and why."""
    chosen, skipped = select_images(space.store, space.feature, split=split, rows=rows)
    words = space.store.images(["label"])["label"].take(chosen).to_pylist()
    has = np.array([word is not None for word in words], dtype=bool)
    return chosen[has], [word for word in words if word is not None], skipped | {NO_LABEL: int((~has).sum())}


def probe_report(
    found: Probed, asked: Asked, *, split: str | None, train_split: str | None, train_rows: str | None
) -> BenchReport:
    """The figures of what was predicted, with intervals and chance."""
    space, labels = found.space, found.test.labels
    chance = {name: share for name, share in class_chance(len(found.classes)).items() if name != "top-5"}
    most = max((s for s in asked.shots if s != "all"), default=0)
    poor = int((np.bincount(found.train.labels) < most).sum())
    notes = list(found.notes)
    if poor:
        notes.append(f"{poor} of {len(found.classes)} classes have fewer than {most} training images")
    absent = len(found.classes) - len(np.unique(labels))
    if absent:
        notes.append(
            f"{absent} of {len(found.classes)} classes have no image here; mean-per-class leaves them out"
        )
    return BenchReport(
        task="probe",
        metrics={
            group: _figures(predicted == labels, labels, len(found.classes), seed=asked.seed)
            for group, predicted in found.groups.items()
        },
        chance=dict.fromkeys(found.groups, chance),
        images=len(labels),
        classes=len(found.classes),
        skipped={reason: count for reason, count in found.skipped.items() if count},
        split=split,
        rows=space.chosen,
        options={
            "on": "head" if space.vector is None else "encoder",
            **({"vector": space.vector} if space.vector else {}),
            "train_split": train_split or "all",
            **({"train_rows": train_rows} if train_rows else {}),
            "train_images": len(found.train.labels),
            "repeats": asked.repeats,
            "temperature": TEMPERATURE,
            **found.options,
        },
        notes=(*space.notes, *notes),
        store_fingerprint=space.store.fingerprint,
        head_sha256=None if space.head is None else space.head.sha256,
        image_card=space.feature.card,
        versions=versions_of(*PROBES),
        device=device_kind(space.device),
        seed=asked.seed,
    )


def _figures(right: AnyArray, labels: IntArray, classes: int, *, seed: int) -> dict[str, Figure]:
    """top-1 and mean-per-class of `right (r, n)`: means over the draws."""
    values = right.astype(np.float64)
    worth: FloatArray = values.mean(axis=0)
    one = draws_interval(values, np.zeros_like(labels), seed=seed)
    each = draws_interval(values, labels, seed=seed)
    recall = class_recall(worth, labels, classes).mean
    return {
        "top-1": Figure(value=float(worth.mean()), low=one[0], high=one[1]),
        "mean-per-class": Figure(value=recall, low=each[0], high=each[1]),
    }


def probe_outcomes(found: Probed) -> dict[str, Outcomes]:
    """Group -> of each test image, in what share of the draws it was right."""
    ids = image_ids(found.space.store, found.test.rows)
    strata = [found.classes[c] for c in found.test.labels]
    statistics = {
        "top-1": Statistic(kind="mean", value="right"),
        "mean-per-class": Statistic(kind="stratum-mean", value="right"),
    }
    return {
        group: Outcomes(
            ids=ids,
            strata=strata,
            values={"right": (predicted == found.test.labels).mean(axis=0)},
            statistics=statistics,
        )
        for group, predicted in found.groups.items()
    }

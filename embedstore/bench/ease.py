"""Are encoders that see alike easier to align? CKA against the lowest CLIP loss (freeze-align, section 3).

Over random toy worlds (figures A.2, A.3), and over every encoder pair of a store (figure 1).
"""

from __future__ import annotations

from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedstore.bench.easing.loss_minimum import ITERATIONS, LR, TEMPERATURE, Problem, loss_minima
from embedstore.bench.easing.toy_world import HIDDEN, VECTORS, WIDTH, first_map, toy_sets
from embedstore.documents import EasePoint, EaseReport, Figure
from embedstore.encoders.device import device_kind, pick_device
from embedstore.errors import UsageError
from embedstore.metrics import correlation
from embedstore.metrics.cka import linear_cka
from embedstore.metrics.hsic import LEAST_ROWS, too_few
from embedstore.store import Store, choose_rows, open_store
from embedstore.store.pair_rows import (
    captioned,
    choose_features,
    image_vectors,
    places_of_sample,
    text_vectors,
    vector_kind,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from os import PathLike

    from torch import Tensor

    from embedstore.shapes import FloatArray

LEAST_POINTS = 4
SAMPLE, MOST_ROWS = 1000, 10_000
# So many instances at once stay in a core's cache.
_TOGETHER = 50
_FEW = 20


def ease_of_toy_worlds(
    *,
    instances: int = 1000,
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> EaseReport:
    """CKA and the lowest loss of random toy worlds; the interval is over the instances.

    An instance is the same for any number of them. progress: called with instances done and of how many.
    """
    if not LEAST_POINTS <= instances <= 100_000:
        raise UsageError(
            "no such number of instances",
            where="--instances",
            found=instances,
            allowed=f"{LEAST_POINTS} to 100000",
        )
    on = pick_device(device)
    points: list[EasePoint] = []
    with _one_thread(on):
        for first in range(0, instances, _TOGETHER):
            numbers = range(first, min(instances, first + _TOGETHER))
            points += _toy_points(numbers, seed, on)
            if progress is not None:
                progress(len(points), instances)
    return _report(
        points,
        _metrics(points, lambda: correlation.point_draws(len(points), seed=seed)),
        vectors=VECTORS,
        width=WIDTH,
        hidden=HIDDEN,
        device=device_kind(on),
        seed=seed,
    )


def ease_of_store(
    store: Store | str | PathLike[str],
    *,
    image: Sequence[str] | None = None,
    text: Sequence[str] | None = None,
    sample: int = SAMPLE,
    split: str | None = None,
    rows: str | None = None,
    language: str = "en",
    role: str = "caption",
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> EaseReport:
    """The same for every image feature of a store with every text feature, on one sample of rows.

    A picture is the mean over CLS and all patches, a text the mean of its captions' pooled embeddings, both
    as they are stored; the map goes from pictures to texts. The interval is over encoders: pairs that share
    one are not independent. `image`, `text`: names of features; none: every encoder's. `sample` rows are
    drawn from those that every feature holds, all in one batch: their scores take sample² · 12 bytes, so no
    more than 10,000 are taken. progress: steps done and of how many. `UsageError` as of
    `embedstore curate pairs`.
    """
    if not LEAST_ROWS <= sample <= MOST_ROWS:
        raise UsageError(
            "no such number of rows", where="--sample", found=sample, allowed=f"{LEAST_ROWS} to {MOST_ROWS}"
        )
    opened = store if isinstance(store, Store) else open_store(store)
    images, texts = choose_features(opened, image, "images"), choose_features(opened, text, "texts")
    chosen = choose_rows(opened, rows) if rows is not None else None
    found = captioned(
        opened, images, texts, split=split, language=language, role=role, captions="mean", chosen=chosen
    )
    if len(found) < LEAST_ROWS:
        raise too_few(len(found))
    taken = found.at(places_of_sample(len(found), sample, seed))
    kinds = {f.name: vector_kind(f, None) for f in (*images, *texts)}
    left = {f.name: image_vectors(f, taken.images, kinds[f.name]) for f in images}
    right = {f.name: text_vectors(f, taken.texts, taken.offsets, kinds[f.name]) for f in texts}
    on = pick_device(device)
    pairs = [(x, y) for x in left for y in right]
    points = []
    for number, (x, y) in enumerate(pairs):

        def tell(step: int, before: int = number * ITERATIONS) -> None:
            if progress is not None:
                progress(before + step, len(pairs) * ITERATIONS)

        points.append(_pair_point((x, left[x]), (y, right[y]), seed=seed, device=on, on_step=tell))
    of_image = np.repeat(np.arange(len(left)), len(right))
    of_text = np.tile(np.arange(len(right)), len(left))
    metrics = _metrics(points, lambda: correlation.crossed_draws(of_image, of_text, seed=seed))
    return _report(
        points,
        metrics,
        vectors=len(taken),
        kinds=kinds,
        skipped=found.skipped,
        split=split,
        rows=chosen.record(opened) if chosen else None,
        language=language,
        role=role,
        store_fingerprint=opened.fingerprint,
        cards={f.name: f.card for f in (*images, *texts)},
        notes=_notes_of_pairs(len(points), metrics),
        device=device_kind(on),
        seed=seed,
    )


def _toy_points(numbers: range, seed: int, device: torch.device) -> Iterator[EasePoint]:
    sets = [toy_sets(number, seed=seed) for number in numbers]

    def stacked(name: str) -> Tensor:
        return torch.from_numpy(np.stack([getattr(each, name) for each in sets])).to(device)

    problem = Problem(a=stacked("a"), b=stacked("b"), weight=stacked("weight"), bias=stacked("bias"))
    for each, loss in zip(sets, loss_minima(problem).tolist(), strict=True):
        yield _point(each.a, each.b, loss)


def _pair_point(
    image: tuple[str, FloatArray],
    text: tuple[str, FloatArray],
    *,
    seed: int,
    device: torch.device,
    on_step: Callable[[int], None],
) -> EasePoint:
    (x, a), (y, b) = image, text
    # Each width has first weights of its own, whichever the other pairs are.
    weight, bias = first_map(np.random.default_rng([seed, a.shape[1], b.shape[1]]), a.shape[1], b.shape[1])
    parts = [torch.from_numpy(part.astype(np.float32))[None].to(device) for part in (a, b, weight, bias)]
    problem = Problem(a=parts[0], b=parts[1], weight=parts[2], bias=parts[3])
    try:
        return _point(a, b, loss_minima(problem, on_step=on_step).item(), image=x, text=y)
    except UsageError as bad:
        raise UsageError(bad.problem, where=f"{x} and {y}", found=bad.found, todo=bad.todo) from None


def _point(a: FloatArray, b: FloatArray, loss: float, **names: str) -> EasePoint:
    alike = linear_cka(a, b)
    return EasePoint(cka=alike.biased, cka_unbiased=alike.unbiased, loss=loss, **names)


def _metrics(
    points: Sequence[EasePoint], draws: Callable[[], Iterable[FloatArray]]
) -> dict[str, dict[str, Figure]]:
    """Correlations of both kinds of CKA with the logarithm of the loss; none of too few points."""
    if len(points) < LEAST_POINTS:
        return {}
    losses = np.log([point.loss for point in points])
    metrics: dict[str, dict[str, Figure]] = {}
    for kind in ("cka", "cka_unbiased"):
        alike = np.array([getattr(point, kind) for point in points])
        metrics[kind] = {}
        for name, of in (("pearson", correlation.pearson), ("spearman", correlation.spearman)):
            low, high = correlation.interval(of, alike, losses, draws())
            metrics[kind][name] = Figure(value=float(of(alike, losses)[0]), low=low, high=high)
    return metrics


def _notes_of_pairs(count: int, metrics: dict[str, Any]) -> tuple[str, ...]:
    if not metrics:
        return (f"too few encoder pairs to correlate: {count}, and {LEAST_POINTS} are needed",)
    if count < _FEW:
        return (f"{count} encoder pairs are few: the intervals are rough",)
    return ()


def _report(points: Sequence[EasePoint], metrics: dict[str, dict[str, Figure]], **fields: Any) -> EaseReport:
    return EaseReport(
        points=tuple(points),
        metrics=metrics,
        iterations=ITERATIONS,
        lr=LR,
        temperature=TEMPERATURE,
        versions={name: version(name) for name in ("embedstore", "torch", "numpy")},
        **fields,
    )


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """Products this small are slower when threads share them, and many times so beside other programs."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

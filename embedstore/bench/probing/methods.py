"""What is trained: k-NN votes and linear probes on drawn training images, and what a probe is asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from embedstore.bench.probing.linear import (
    ITERATIONS,
    STRENGTHS,
    LinearPath,
    few_shots,
    hold_out,
    linear_path,
)
from embedstore.errors import UsageError
from embedstore.index.topk import top_k
from embedstore.metrics.vote import weighted_vote

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from embedstore.bench.probing.vectors import Space
    from embedstore.shapes import AnyArray, Float32Array, IntArray

Shots: TypeAlias = int | Literal["all"]
Progress: TypeAlias = "Callable[[str, int, int], None]"

METHODS = ("knn", "linear")
SHOTS: tuple[Shots, ...] = (1, 2, 4, 8, 16, "all")
NEIGHBOURS = (10, 20)
REPEATS = 5
HELD_OUT = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """Images of a split: rows `(n,)` of the images table, unit vectors `(n, w)`, labels `(n,)` of classes."""

    rows: IntArray
    vectors: Float32Array
    labels: IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """How a probe is made. shots: training images of each class, drawn `repeats` times, or all of them."""

    shots: tuple[Shots, ...]
    methods: tuple[str, ...]
    neighbours: tuple[int, ...]
    repeats: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """Everything of one probe.

    groups: group -> predicted classes `(r, n)` of the test images in each draw; options: what the probes
    chose, such as the strength of L2; notes: what a reader must know.
    """

    space: Space
    classes: tuple[str, ...]
    train: Labelled
    test: Labelled
    skipped: dict[str, int]
    groups: dict[str, IntArray] = field(default_factory=dict)
    options: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def check_asked(
    shots: Sequence[Shots], methods: Sequence[str], neighbours: Sequence[int], repeats: int, seed: int
) -> Asked:
    """The options of a probe; `UsageError` for what cannot be meant."""
    for name, given, allowed, good in (
        ("shots", shots, "1, 2, 4, ... or all", all(s == "all" or s > 0 for s in shots)),
        ("methods", methods, ", ".join(METHODS), set(methods) <= set(METHODS)),
        ("neighbours", neighbours, "1 or more each", all(k > 0 for k in neighbours)),
        ("repeats", [repeats], "1 or more", repeats > 0),
    ):
        if not given or not good or len(set(given)) != len(given):
            raise UsageError(
                f"bad {name}", found=", ".join(map(str, given)) or "none", allowed=f"{allowed}, each once"
            )
    return Asked(
        shots=tuple(shots),
        methods=tuple(methods),
        neighbours=tuple(neighbours),
        repeats=repeats,
        seed=seed,
    )


def knn(found: Probed, asked: Asked, told: Progress) -> None:
    """Votes of the nearest training images of each draw."""
    train, test, most = found.train, found.test, max(asked.neighbours)
    for done, shots in enumerate(asked.shots):
        told("k-NN", done, len(asked.shots))
        answers: dict[int, list[IntArray]] = {k: [] for k in asked.neighbours}
        for rows in few_shot_draws(train.labels, shots, asked):
            near = top_k(
                test.vectors,
                train.vectors[rows],
                min(most, len(rows)),
                device=str(found.space.device),
            )
            labels = train.labels[rows][near.rows]
            for k, answer in answers.items():
                answer.append(weighted_vote(near.scores[:, :k], labels[:, :k], len(found.classes)))
        for k, answer in answers.items():
            found.groups[f"knn-{k}/{_named(shots)}"] = np.stack(answer)
    told("k-NN", len(asked.shots), len(asked.shots))


def few_shot_draws(labels: IntArray, shots: Shots, asked: Asked) -> list[IntArray]:
    """Training rows of each draw."""
    if shots == "all":
        return [np.arange(len(labels))]
    # Both numbers, not their sum: draws of one seed are none of the next one's.
    return [few_shots(labels, shots, seed=(asked.seed, draw)) for draw in range(asked.repeats)]


def linear(found: Probed, asked: Asked, told: Progress) -> None:
    """Logistic regressions of each draw, with the strength that was best on the held-out images."""
    train = found.train
    held = hold_out(train.labels, share=HELD_OUT, seed=asked.seed)
    if not held.any():
        raise UsageError(
            "no training image can be held out to choose the strength of L2",
            found="one training image of each class",
            todo="--methods knn",
        )
    total = sum(1 if shots == "all" else asked.repeats for shots in asked.shots)
    done = unfinished = 0
    for shots in asked.shots:
        paths = []
        for rows in few_shot_draws(train.labels[~held], shots, asked):
            told("linear probes", done, total)
            paths.append(_path(found, np.flatnonzero(~held)[rows], held))
            done += 1
        right = np.mean([(path.held_out == train.labels[held]).mean(axis=1) for path in paths], axis=0)
        best = int(right.argmax())
        if shots == "all":
            every = np.arange(len(train.labels))
            paths = [_path(found, every, held, strengths=STRENGTHS[best : best + 1])]
        unfinished += sum(path.unfinished for path in paths)
        name = f"linear/{_named(shots)}"
        found.groups[name] = np.stack([path.test[best if len(path.test) > 1 else 0] for path in paths])
        found.options[f"C of {name}"] = STRENGTHS[best]
        inner = min(max(best, 1), len(STRENGTHS) - 2)
        if right[best] > right[inner]:
            found.notes.append(f"{name}: the chosen C, {STRENGTHS[best]:g}, is at the end of the grid")
    told("linear probes", total, total)
    if unfinished:
        found.notes.append(
            f"{unfinished} logistic regressions had not converged after {ITERATIONS} iterations"
        )


def _path(
    found: Probed, rows: IntArray, held: AnyArray, strengths: tuple[float, ...] = STRENGTHS
) -> LinearPath:
    """The fits of these training rows."""
    train = found.train
    return linear_path(
        train.vectors[rows],
        train.labels[rows],
        held_out=train.vectors[held],
        test=found.test.vectors,
        strengths=strengths,
    )


def _named(shots: Shots) -> str:
    return "all" if shots == "all" else f"{shots} shot{'s' if shots > 1 else ''}"

"""The page and the chart of the study of collections: figures, differences with intervals, and a verdict."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from embedstore.fit.svg import Line, Panel, chart
from embedstore.metrics.intervals import draws_interval
from embedstore.metrics.runs import t_interval
from embedstore.recipes.collection_study import COLLECTED, POOL, RANDOM, SETS, TEMPLATES, Outcome, Recipe

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from embedstore.shapes import IntArray

_PREAMBLE = """\
# A concept-balanced subset against a random one

Written by `make collection-study`, which does it all again: ten minutes of one core, nothing is downloaded.

**The pool** is `{recipe.pool}`: {recipe.scenes:,} scenes with one English caption each, in which the k-th
shape comes with a weight of k^-{recipe.tail:g}. The rarest third is {rare}: {rare_count} pictures of
{recipe.scenes:,}, by the shape of the main object; {common} alone has {common_count:,}. **The test set** is
`{recipe.test}`, in which all shapes are equally frequent. Both are encoded by the demo's frozen encoders.

```sh
embedstore curate prototypes pool.store --name shapes --from texts --feature words --templates templates.txt
embedstore curate collect pool.store --prototypes shapes --feature words --keep {recipe.keep} \\
  --per-concept {recipe.per_concept} --name collected
embedstore curate sample pool.store pool.store --count {taken} --seed S --name random-S
embedstore fit pool.store --image vision --text words --rows collected --width {recipe.width} \\
  --epochs {recipe.epochs} --batch-size {recipe.batch_size} --lr {recipe.lr:g} --seed S --out head
embedstore bench zeroshot test.store --head head --split all --templates templates.txt
```

Prototypes are made of the shapes' names, in the space of the captions: there is no CLIP here for the
few-shot images that freeze-align takes. A seed decides a fit, the random rows and the random order; pool,
prototypes and test pictures are the same for all. Nothing is chosen by a figure below: the last checkpoint
is measured. The templates are {templates}.

## What came out

Zero-shot mean per class in %, mean ± standard deviation over {seeds} seeds; chance is {chance:.1f}.

| fitted on | pictures | of the rare third | steps | rare third | all {classes} classes |
|---|---|---|---|---|---|
"""
_LIMITS = """\
Of the collected pictures {agree:.0f} % have their concept as the main object; in the others it stands beside
something larger. Captions here always name what they speak of; those of the web do not, so that a collection
there is less pure.

What the other orders take of the pictures of the first one: {same}.

The whole pool is given as many steps as the subsets. What it gives with more was not measured.

One pool and one test set: the intervals speak of other fits, other random rows and other test pictures, not
of another pool.
"""


def study_page(found: Outcome, recipe: Recipe, *, chart: str) -> str:
    """Markdown; `chart` is the file name of the chart beside it. Two seeds at least."""
    by_count = np.argsort(-found.pool, kind="stable")
    head = _PREAMBLE.format(
        recipe=recipe,
        rare=_listed([found.classes[c] for c in found.rare]),
        rare_count=int(found.pool[found.rare].sum()),
        common=found.classes[by_count[0]],
        common_count=int(found.pool[by_count[0]]),
        taken=int(found.rows[COLLECTED][0].sum()),
        templates=", ".join(f"`{words}`" for words in TEMPLATES),
        seeds=len(found.right[COLLECTED]),
        chance=100 / len(found.classes),
        classes=len(found.classes),
    )
    lines = [_row(found, name) for name in SETS]
    lines += ["", "## Differences", "", *_differences(found), "", *_verdicts(found), ""]
    lines += [f"![Recall of each class, and pictures of each class that were fitted on]({chart})", ""]
    lines += ["## What it is of", "", *_limits(found)]
    return head + "\n".join(lines) + "\n"


def study_chart(found: Outcome) -> str:
    """SVG: recall of each class, the most frequent in the pool first, and pictures of each class."""
    order = np.argsort(-found.pool, kind="stable")
    names = [found.classes[c] for c in order]
    shown = (COLLECTED, RANDOM, POOL)
    recalls = [
        Line(
            name=SETS[name],
            points=[*enumerate((100 * recall.mean(axis=0)).tolist())],
            dots=[(k, 100 * float(value)) for of_seed in recall for k, value in enumerate(of_seed)],
        )
        for name in shown
        for recall in (found.recall(name)[:, order],)
    ]
    counts = [
        Line(name=SETS[name], points=[*enumerate(found.rows[name].mean(axis=0)[order].tolist())])
        for name in (COLLECTED, RANDOM)
    ]
    panels = [
        Panel(title="zero-shot recall, %", x="dots: seeds", lines=recalls, names=names),
        Panel(title="pictures fitted on", x="frequent … rare in the pool", lines=counts, names=names),
    ]
    return chart(panels, title="Collected or random")


def _row(found: Outcome, name: str) -> str:
    rows = found.rows[name]
    rare = rows[:, found.rare].sum(axis=1)
    return (
        f"| {SETS[name]} | {round(float(rows.sum(axis=1).mean())):,} | {float(rare.mean()):.0f} |"
        f" {found.steps[name]} | {_spread(found.mean_per_class(name, found.rare))} |"
        f" {_spread(found.mean_per_class(name))} |"
    )


def _spread(values: Sequence[float] | np.ndarray) -> str:
    return f"{100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1):.1f}"


def _pairs(found: Outcome) -> Iterator[tuple[str, str, str, IntArray]]:
    """What is compared: better by expectation, other, which classes in words, and the classes."""
    every = np.unique(found.labels)
    for other in [name for name in SETS if name != COLLECTED]:
        yield COLLECTED, other, "rare third", found.rare
        yield COLLECTED, other, f"all {len(found.classes)}", every


def _measured(
    found: Outcome, one: str, other: str, of: IntArray
) -> tuple[float, tuple[float, float], tuple[float, float]]:
    """Difference, its interval over seeds, and over seeds and test pictures; shares of 1."""
    paired = found.mean_per_class(one, of) - found.mean_per_class(other, of)
    here = np.isin(found.labels, of)
    hits = (found.right[one] - found.right[other])[:, here]
    return float(paired.mean()), t_interval(paired), draws_interval(hits, found.labels[here], seed=0)


def _differences(found: Outcome) -> list[str]:
    lines = [
        f"Points of mean per class by which `{SETS[COLLECTED]}` is above the other, both of the same",
        "seed, with 95 % intervals: over seeds (Student's t, for these test pictures), and over seeds and",
        "test pictures (bootstrap of both).",
        "",
        "| above | classes | points | over seeds | over seeds and pictures |",
        "|---|---|---|---|---|",
    ]
    for one, other, words, of in _pairs(found):
        value, seeds, both = _measured(found, one, other, of)
        lines.append(
            f"| {SETS[other]} | {words} | {100 * value:+.1f} | {_between(seeds)} | {_between(both)} |"
        )
    return lines


def _verdicts(found: Outcome) -> Iterator[str]:
    for one, other, words, of in _pairs(found):
        if other not in (RANDOM, POOL):
            continue
        value, *both = _measured(found, one, other, of)
        out = all(low > 0 or high < 0 for low, high in both)
        against = "random rows" if other == RANDOM else "the whole pool"
        yield _item(
            f"**Against {against}, {words}**: {100 * value:+.1f} points; "
            + ("both intervals exclude 0." if out else "not both intervals exclude 0, so it shows nothing.")
        )


def _limits(found: Outcome) -> list[str]:
    same = " and ".join(f"{100 * share:.1f} % ({SETS[name]})" for name, share in found.shared.items())
    return [_item(words) for words in _LIMITS.format(agree=100 * found.agree, same=same).split("\n\n")]


def _item(words: str) -> str:
    """A list's item in lines of 110 characters."""
    return fill(words, 110, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)


def _between(interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{100 * low:+.1f} to {100 * high:+.1f}"


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]

"""Accuracy against bytes, a dot a policy, as SVG text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedstore.fit.svg import Line, Panel, chart

if TYPE_CHECKING:
    from embedstore.documents import PolicyFigures, PolicyScore, PolicyStudy


def policy_chart(study: PolicyStudy) -> str:
    """Recall@1 and, where it was measured, zero-shot top-1 of each policy over the bytes of a picture."""
    scores: dict[str, list[PolicyScore | None]] = {
        "Recall@1, mean of both directions, %": [p.recall for p in study.policies]
    }
    if any(p.top_1 is not None for p in study.policies):
        scores["zero-shot top-1, %"] = [p.top_1 for p in study.policies]
    panels = [
        Panel(title=title, x="bytes a picture", lines=_lines(study.policies, shown), whole=False, log=True)
        for title, shown in scores.items()
    ]
    return chart(panels, title=f"{study.feature}: accuracy against bytes", columns=2)


def _lines(policies: tuple[PolicyFigures, ...], scores: list[PolicyScore | None]) -> list[Line]:
    """A dot each, with its interval as a thin upright line."""
    lines = []
    for policy, score in zip(policies, scores, strict=True):
        if score is None:
            continue
        value, low, high = (100 * v for v in (score.value.value, score.value.low, score.value.high))
        at = float(policy.bytes)
        lines += [
            Line(name=policy.policy, points=[(at, low), (at, high)], faint=True),
            Line(name=policy.policy, dots=[(at, value)]),
        ]
    return lines

"""Storage policies: accuracy against bytes, what each takes, and what heads fitted from it lose."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from embedstore.fit.svg import chart
from embedstore.recipes.page.content import Block, Plot, Section, Table
from embedstore.recipes.page.render import percent
from embedstore.recipes.policy_chart import policy_panels

if TYPE_CHECKING:
    from embedstore.documents import PolicyScore, PolicyStudy


def policies_blocks(study: PolicyStudy) -> tuple[Block, ...]:
    """The plots, a table of bytes and errors, and one of each accuracy with its change."""
    plots = []
    for panel in policy_panels(study):
        dots = ((line.name, line.dots[0]) for line in panel.lines if line.dots)
        said = "; ".join(f"{name} {y:.1f} at {x:,.0f} bytes" for name, (x, y) in dots)
        plots.append(Plot(svg=chart([replace(panel, title="")], title=""), title=panel.title, alt=said))
    base = study.policies[0]
    stored = Table(
        columns=("Policy", "Bytes a picture", "Smaller by", "Pictures/s", "1 − cosine"),
        rows=tuple(
            (
                p.policy,
                f"{p.bytes:,}",
                f"{base.bytes / p.bytes:.1f}",
                f"{p.pictures_per_second:,.0f}",
                "" if p is base else f"{p.cosine_error:.1e} of {p.cosine_of}",
            )
            for p in study.policies
        ),
    )
    facts = Section.of(
        "What was measured",
        feature=study.feature,
        heads=f"{study.seeds} from each policy, {study.config.epochs} epochs",
        images=f"{study.images:,}",
        texts=f"{study.texts:,}",
        split=study.split or "every row",
        left_out="; ".join(f"{policy}: {why}" for policy, why in study.left_out.items()) or "nothing",
    )
    scores = [("Recall@1, mean of both directions", [(p.policy, p.recall) for p in study.policies])]
    top_1 = [(p.policy, p.top_1) for p in study.policies if p.top_1 is not None]
    if top_1:
        scores.append(("Zero-shot top-1", top_1))
    return (
        Block(kind="plots", value=plots),
        Block(kind="table", title="What is stored", value=stored),
        *(Block(kind="table", title=title, value=_changes(rows)) for title, rows in scores),
        Block(kind="facts", value=[facts]),
    )


def _changes(rows: list[tuple[str, PolicyScore]]) -> Table:
    found = []
    for policy, score in rows:
        line = [policy, percent(score.value.value)]
        if score.change is None:
            line += ["", "", ""]
        else:
            low, value, high = (100 * v for v in (score.change.low, score.change.value, score.change.high))
            verdict = "noise" if low <= 0 <= high else "better" if value > 0 else "worse"
            line += [f"{value:+.1f}", f"{low:+.1f} to {high:+.1f}", verdict]
        found.append(tuple(line))
    return Table(columns=("Policy", "Value", "Change", "95 % interval", "Verdict"), rows=tuple(found))

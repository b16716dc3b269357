"""`embedstore fit --sweep`: many heads in one pass, a bar, a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from embedstore_cli import render

if TYPE_CHECKING:
    from pathlib import Path

    from embedstore.fit import Member, SweepProgress, SweepResult
    from embedstore.fit.sweep_report import SweepMember


def fit_many(store: str, members: tuple[Member, ...], out: Path, *, json: bool, **how: Any) -> None:
    """Fit the members of a sweep and show them; exit code 1 where one has failed."""
    from embedstore.fit import fit_sweep

    told = set()
    with render.bars(quiet=json) as bars:

        def show(at: SweepProgress) -> None:
            if at.number not in told and not json:
                told.add(at.number)
                on = f", {at.resumed} of them from a checkpoint" if at.resumed else ""
                bars.line(f"pass {at.number} of {at.passes}: {_heads(at.heads)} on one stream of batches{on}")
            failed = f", {at.failed} failed" if at.failed else ""
            note = f"{_heads(at.heads)}{failed}, epoch {at.epoch}, {at.samples_per_second:.0f} samples/s"
            bars.update(
                f"pass {at.number} of {at.passes} ({at.device})", done=at.step, total=at.steps, note=note
            )

        try:
            result = fit_sweep(store, members, out, on_progress=show, **how)
        except KeyboardInterrupt:
            render.warn(
                f"stopped; finished heads and checkpoints are kept in {out}: run the same command again"
            )
            raise
    render.print_json(result.to_dict()) if json else _show(result)
    for member in result.failed:
        render.fail(f"{member.name}: {member.error}")
    if result.failed:
        raise typer.Exit(1)


def _show(result: SweepResult) -> None:
    fitted = sum(member.status == "fitted" for member in result.members)
    kept = sum(member.status == "kept" for member in result.members)
    before = f"; {kept} were there" if kept else ""
    passes, took = len(result.passes), render.duration(result.seconds)
    counted = f"{passes} pass{'es' if passes != 1 else ''}"
    render.say(f"{_heads(fitted)} in {counted}, {took} ({result.device}){before}")
    judged = any(member.recall for member in result.members)
    columns = ["head", "loss", *(["t→i", "i→t", "kept"] if judged else []), "params", "s"]
    render.table(
        "recall@1 on the held-out rows, %: text to image, image to text" if judged else "",
        columns,
        [_cells(member, judged=judged) for member in result.ranked],
    )
    for reason, count in {r: n for each in result.passes for r, n in each.skipped.items()}.items():
        if count:
            render.warn(f"{count} images left out: {reason}")
    render.say(f"heads, sweep.json and sweep.svg: {result.out}")


def _heads(count: int) -> str:
    return f"{count} head{'s' if count != 1 else ''}"


def _cells(member: SweepMember, *, judged: bool) -> list[str]:
    if member.status == "failed":
        return [member.name, "failed", *([""] * (5 if judged else 2))]
    recall = member.recall or {}
    ways = [f"{100 * recall[way]:.1f}" if way in recall else "" for way in ("text_to_image", "image_to_text")]
    return [
        member.name,
        f"{member.loss:.3f}",
        *([*ways, f"{member.kept_epoch}/{member.epochs}"] if judged else []),
        render.count(member.parameters or 0),
        f"{member.seconds:.0f}",
    ]

"""`embedstore bench policies`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedstore_cli import options as opt
from embedstore_cli import render
from embedstore_cli.commands.bench import common

if TYPE_CHECKING:
    from embedstore.documents import PolicyScore, PolicyStudy


def policies(
    store: opt.StorePath,
    image: opt.ImageFeature = None,
    text: opt.TextFeature = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="TOML of the fits, as of fit --config.", show_default=False),
    ] = None,
    names: Annotated[
        str | None,
        typer.Option(
            "--policies",
            metavar="A,B,...",
            help="Policies against the stored one. \\[default: nine usual ones]",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Heads fitted from each policy.")] = 3,
    fitted_on: Annotated[
        str | None,
        typer.Option(metavar="SPLIT", help="Split fitted on. \\[default: train]", show_default=False),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Of each fit.", show_default=False)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Of each fit.", show_default=False)] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate.", show_default=False)] = None,
    split: opt.Split = "test",
    text_encoder: opt.TextEncoder = None,
    device: opt.Device = "auto",
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Also write the study here.", show_default=False),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.svg", help="Draw accuracy against bytes.", show_default=False),
    ] = None,
    html: common.Html = None,
    json: opt.Json = False,
) -> None:
    """What storage policies of a feature save and lose: bytes, read rate, error, and heads fitted from each.

    The feature is recoded in a working copy beside the store, which is removed; the store stays as it is.
    """
    from embedstore.bench.report import check_place, write_text
    from embedstore.fit import fit_config
    from embedstore.recipes.policy_chart import policy_chart
    from embedstore.recipes.policy_study import POLICIES, study_policies

    for place in (out, plot):
        if place is not None:
            check_place(place)
    chosen = fit_config(
        config, image=image, text=text, split=fitted_on, epochs=epochs, batch_size=batch_size, lr=lr
    )
    if chosen.split is None and not chosen.rows and not chosen.mix:
        chosen = chosen.model_copy(update={"split": "train"})
    with render.told_warnings(), render.bars(quiet=json) as bars:
        found = study_policies(
            store,
            chosen,
            policies=POLICIES if names is None else common.words(names, "--policies"),
            seeds=seeds,
            split=common.split_of(split),
            text_encoder=text_encoder,
            device=device,
            on_progress=lambda what, done, total: bars.update("heads", done=done, total=total, note=what),
        )
    if out is not None:
        write_text(found.to_json(), out)
    if plot is not None:
        write_text(policy_chart(found), plot)
    if html is not None:
        common.write_page([found], html, json=json)
    if json:
        render.print_json(found.to_json())
        return
    _show(found)
    for what, place in (("study", out), ("plot", plot), ("page", html)):
        if place is not None:
            render.say(f"{what}: {place}")


def _show(study: PolicyStudy) -> None:
    base = study.policies[0]
    render.table(
        f"{study.feature} as stored and recoded",
        ("", "bytes a picture", "smaller by", "pictures/s", "1 − cosine", "of"),
        [
            (
                p.policy,
                f"{p.bytes:,}",
                f"{base.bytes / p.bytes:.1f}",
                f"{p.pictures_per_second:,.0f}",
                f"{p.cosine_error:.1e}" if p is not base else "",
                p.cosine_of if p is not base else "",
            )
            for p in study.policies
        ],
        words=("of",),
    )
    _scores(study, "Recall@1, mean of both directions", [p.recall for p in study.policies])
    if base.top_1 is not None:
        _scores(study, "zero-shot top-1", [p.top_1 for p in study.policies])
    render.fold(
        f"{study.seeds} heads from each policy, {study.config.epochs} epochs; {study.images} images, "
        f"{study.texts} texts, {f'split {study.split}' if study.split else 'all rows'}"
    )
    for note in study.notes:
        render.warn(note)
    for policy, reason in study.left_out.items():
        render.fold(f"left out: {policy}: {reason}")


def _scores(study: PolicyStudy, title: str, scores: list[PolicyScore | None]) -> None:
    def row(policy: str, score: PolicyScore) -> tuple[str, ...]:
        own = (policy, f"{100 * score.value.value:.1f} %")
        if score.change is None:
            return (*own, "", "", "")
        change = score.change
        interval = f"{100 * change.low:+.1f} to {100 * change.high:+.1f}"
        verdict = "noise" if change.low <= 0 <= change.high else "better" if change.value > 0 else "worse"
        return (*own, f"{100 * change.value:+.1f}", interval, verdict)

    render.say()
    render.table(
        title,
        ("", "value", "change", "95 % interval", ""),
        [row(p.policy, s) for p, s in zip(study.policies, scores, strict=True) if s is not None],
    )

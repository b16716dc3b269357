"""`embedstore fit`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from embedstore.errors import UsageError
from embedstore_cli import options as opt
from embedstore_cli import render
from embedstore_cli.sweep import fit_many

if TYPE_CHECKING:
    from embedstore.fit import FitProgress, FitResult

SIDE = "token, mlp, linear or identity."


def fit(
    store: opt.StorePath,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the head.", show_default=False)],
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="TOML file with any of these options; options win.", show_default=False
        ),
    ] = None,
    sweep: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="TOML file of many fits, made in one pass over the tokens: docs/sweeps.md.",
            show_default=False,
        ),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(help="token, dalip, sail or dinotxt. \\[default: token]", show_default=False),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Option of that head, see docs/heads.md; may be repeated.",
            show_default=False,
        ),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(help="clip, sigmoid, sigmoid-sum or sparc. \\[default: clip]", show_default=False),
    ] = None,
    image: Annotated[
        str | None, typer.Option(metavar="FEATURE", help="Image feature.", show_default=False)
    ] = None,
    text: Annotated[
        str | None, typer.Option(metavar="FEATURE", help="Text feature.", show_default=False)
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Rows fitted on; without it all.", show_default=False)
    ] = None,
    rows: opt.Rows = None,
    mix: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=SHARE,...",
            help="Subsets, or stores of A+B, of which every epoch and batch has these shares.",
            show_default=False,
        ),
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="Captions fitted on. \\[default: en]", show_default=False)
    ] = None,
    role: Annotated[
        str | None, typer.Option(help="caption or long. \\[default: caption]", show_default=False)
    ] = None,
    width: Annotated[int | None, typer.Option(help="Joint width E.", show_default=False)] = None,
    image_local: Annotated[str | None, typer.Option(help=f"Patches: {SIDE}", show_default=False)] = None,
    image_cls: Annotated[str | None, typer.Option(help=f"CLS: {SIDE}", show_default=False)] = None,
    text_token: Annotated[str | None, typer.Option(help=f"Text tokens: {SIDE}", show_default=False)] = None,
    text_global: Annotated[
        str | None, typer.Option(help="Text mean: mlp, token, linear or identity.", show_default=False)
    ] = None,
    image_pooling: Annotated[
        str | None, typer.Option(help="mean or max over patches.", show_default=False)
    ] = None,
    text_pooling: Annotated[
        str | None,
        typer.Option(help="mean of the tokens, or pooled: the encoder's own.", show_default=False),
    ] = None,
    dropout: Annotated[
        float | None, typer.Option(help="Share of channels dropped.", show_default=False)
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the rows.", show_default=False)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pairs in a step.", show_default=False)] = None,
    micro_batch: Annotated[
        int | None,
        typer.Option(help="Pairs embedded at a time, for a batch too large for memory.", show_default=False),
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate.", show_default=False)] = None,
    min_lr: Annotated[
        float | None, typer.Option(help="Learning rate at the end.", show_default=False)
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="Of the optimiser, on matrices alone.", show_default=False)
    ] = None,
    warmup_epochs: Annotated[
        float | None, typer.Option(help="Epochs in which the learning rate rises.", show_default=False)
    ] = None,
    warmup_steps: Annotated[int | None, typer.Option(help="The same in steps.", show_default=False)] = None,
    warmup_share: Annotated[
        float | None, typer.Option(help="The same as a share of all steps.", show_default=False)
    ] = None,
    optimiser: Annotated[
        str | None, typer.Option(help="adamw or lion. \\[default: adamw]", show_default=False)
    ] = None,
    beta1: Annotated[
        float | None, typer.Option(help="Of its mean gradient. \\[default: 0.9]", show_default=False)
    ] = None,
    beta2: Annotated[
        float | None,
        typer.Option(help="Of its second. \\[default: adamw 0.999, lion 0.99]", show_default=False),
    ] = None,
    clip_norm: Annotated[
        float | None, typer.Option(help="Shorten gradients to this length.", show_default=False)
    ] = None,
    ema: Annotated[
        float | None,
        typer.Option(help="Keep a moving average of the weights, of this decay.", show_default=False),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(help="Stop after so many epochs without a better validation.", show_default=False),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="τ at the start; it is learnt. \\[default: clip 0.07, sigmoid 0.1]", show_default=False
        ),
    ] = None,
    bias: Annotated[
        float | None,
        typer.Option(help="b of a sigmoid loss at the start. \\[default: -10]", show_default=False),
    ] = None,
    captions: Annotated[
        int | None, typer.Option(help="Captions a picture brings. \\[default: 1]", show_default=False)
    ] = None,
    positives: Annotated[
        str | None,
        typer.Option(
            help="How clip takes several captions: mean, apart or any. \\[default: mean]", show_default=False
        ),
    ] = None,
    global_weight: Annotated[
        float | None,
        typer.Option(help="λg of sparc: whole pictures and texts. \\[default: 0.5]", show_default=False),
    ] = None,
    local_weight: Annotated[
        float | None,
        typer.Option(help="λf of sparc: words in their pictures. \\[default: 1]", show_default=False),
    ] = None,
    mask_duplicates: Annotated[
        bool | None,
        typer.Option(
            "--mask-duplicates/--no-mask-duplicates",
            help="Equal captions of two pictures are no negatives. \\[default: no]",
            show_default=False,
        ),
    ] = None,
    val_split: Annotated[
        str | None, typer.Option(help="Split that chooses the best checkpoint.", show_default=False)
    ] = None,
    val_fraction: Annotated[
        float | None,
        typer.Option(help="Share of the fitted rows held out for that instead.", show_default=False),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Decides everything random. \\[default: 0]", show_default=False)
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="Of large products: float32 or bfloat16. \\[default: bfloat16 on a GPU]", show_default=False
        ),
    ] = None,
    compile_: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile",
            help="Make programs of the head with torch.compile first: docs/fitting.md. \\[default: no]",
            show_default=False,
        ),
    ] = None,
    device: opt.Device = "auto",
    cache_on_device: Annotated[
        Literal["auto", "yes", "no"],
        typer.Option(help="Keep all tokens in the device's memory; auto: on a GPU, where they fit."),
    ] = "auto",
    buffer_mb: Annotated[
        float, typer.Option(metavar="MIB", help="Memory for tokens read ahead; changes no result.")
    ] = 512,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard events into DIR too.")
    ] = False,
    checkpoint_minutes: Annotated[
        float,
        typer.Option(metavar="MIN", help="Write down where the fit stands so often, to go on after a stop."),
    ] = 2.0,
    checkpoint_steps: Annotated[
        int | None,
        typer.Option(metavar="N", help="The same after every N steps instead.", show_default=False),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a finished head, or another unfinished fit, in DIR.")
    ] = False,
    json: opt.Json = False,
) -> None:
    """Fit a small head, or many with --sweep, on the cached tokens of one image and one text feature.

    The last checkpoint is kept unless --val-split or --val-fraction chooses the best one. A fit that was
    stopped goes on when the same command is run again.
    """
    from embedstore.fit import fit_config, fit_head, read_sweep, torchrun_world

    with render.told_warnings(), torchrun_world(device) as world:
        speaks = world is None or world.speaks
        read = fit_config if sweep is None else partial(read_sweep, sweep)
        chosen = read(
            config,
            head=head,
            options=opt.settings(options or []),
            loss=loss,
            image=image,
            text=text,
            split=split,
            rows=rows,
            mix=opt.shares(mix) if mix else None,
            language=language,
            role=role,
            width=width,
            image_local=image_local,
            image_cls=image_cls,
            text_token=text_token,
            text_global=text_global,
            image_pooling=image_pooling,
            text_pooling=text_pooling,
            dropout=dropout,
            epochs=epochs,
            batch_size=batch_size,
            micro_batch=micro_batch,
            lr=lr,
            min_lr=min_lr,
            weight_decay=weight_decay,
            warmup_epochs=warmup_epochs,
            warmup_steps=warmup_steps,
            warmup_share=warmup_share,
            optimiser=optimiser,
            beta1=beta1,
            beta2=beta2,
            clip_norm=clip_norm,
            ema=ema,
            patience=patience,
            temperature=temperature,
            bias=bias,
            captions=captions,
            positives=positives,
            global_weight=global_weight,
            local_weight=local_weight,
            mask_duplicates=mask_duplicates,
            val_split=val_split,
            val_fraction=val_fraction,
            seed=seed,
            precision=precision,
            compile=compile_,
        )
        if speaks:
            render.warn_of_idle_gpu(device)
        if isinstance(chosen, tuple):
            if world is not None:
                raise UsageError("a sweep is fitted by one process", todo="start it without torchrun")
            fit_many(
                store,
                chosen,
                out,
                json=json,
                device=device,
                overwrite=overwrite,
                buffer_mb=buffer_mb,
                cache_on_device=cache_on_device,
                checkpoint_minutes=checkpoint_minutes,
                checkpoint_steps=checkpoint_steps,
                tensorboard=tensorboard,
            )
            return
        with render.bars(quiet=json or not speaks) as bars:

            def show(at: FitProgress) -> None:
                recall = "" if at.recall is None else f", recall@1 {100 * at.recall:.1f} %"
                note = f"epoch {at.epoch}, loss {at.loss:.3f}, {at.samples_per_second:.0f} samples/s{recall}"
                bars.update(f"fit ({at.device})", done=at.step, total=at.steps, note=note)

            def resumed(step: int, steps: int) -> None:
                if speaks:
                    render.note(f"going on from step {step} of {steps}")

            try:
                result = fit_head(
                    store,
                    chosen,
                    out,
                    device=device,
                    overwrite=overwrite,
                    buffer_mb=buffer_mb,
                    cache_on_device=cache_on_device,
                    checkpoint_minutes=checkpoint_minutes,
                    checkpoint_steps=checkpoint_steps,
                    tensorboard=tensorboard,
                    on_resume=resumed,
                    on_progress=show,
                    world=world,
                )
            except KeyboardInterrupt:
                if speaks:
                    _say_what_remains(out)
                raise
    if speaks:
        render.print_json(result.to_dict()) if json else _show(result)


def _say_what_remains(out: Path) -> None:
    from embedstore.fit import unfinished

    if (left := unfinished(out)) is not None:
        render.warn(
            f"stopped; {left.step} of {left.steps} steps are kept in {out}, {left.steps - left.step} remain: "
            "run the same command again to go on"
        )


def _show(result: FitResult) -> None:
    config = result.config
    render.say(
        f"fitted on {result.images} images in {render.duration(result.seconds)}: {result.epochs} epochs, "
        f"{result.steps} steps, {result.samples_per_second:.0f} samples/s, "
        f"{result.parameters:,} parameters ({result.device}{_together(result.processes)})"
    )
    for rows in result.head.rows:
        share = "" if rows.share is None else f", share {rows.share:g}"
        render.say(f"  {rows.name}: {rows.rows} {rows.table}{share}")
    if result.cached_bytes:
        render.say(f"tokens kept on {result.device}: {render.size(result.cached_bytes)}")
    render.say(f"loss {result.loss:.3f}, temperature {result.head.temperature:.4f}")
    if result.recall is not None:
        recall = ", ".join(
            f"{way.replace('_', ' ')} {100 * value:.1f} %" for way, value in result.recall.items()
        )
        render.say(
            f"kept epoch {result.kept_epoch} of {config.epochs}, recall@1 on the held-out rows: {recall}"
        )
    for reason, count in result.skipped.items():
        if count:
            render.warn(f"{count} images left out: {reason}")
    render.say(f"head: {result.out}")


def _together(processes: int) -> str:
    return f", {processes} processes" if processes > 1 else ""

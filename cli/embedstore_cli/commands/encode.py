"""`embedstore encode`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from embedstore.errors import StoreNotFoundError, UsageError
from embedstore_cli import options as opt
from embedstore_cli import render

if TYPE_CHECKING:
    from embedstore.encode import DryRun, EncodeSummary, Progress


def encode(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Folder of pictures, table, tar shards or data set, as a path or URL, or KIND:REST, e.g. "
            "webdataset:s3://bucket/{000..123}.tar, hf:NAME, scenes:500?seed=0; docs/sources.md.",
            show_default=False,
        ),
    ],
    store: opt.OneStore,
    image_encoder: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]SPEC",
            help="Frozen image encoder, e.g. hf:facebook/dinov2-large; repeatable. ?layers=12,24 makes "
            "several features in one pass.",
        ),
    ] = None,
    text_encoder: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]SPEC",
            help="Frozen text encoder, e.g. st:all-roberta-large-v1; repeatable. ?max_length=32,64 makes a "
            "feature a limit.",
        ),
    ] = None,
    policy: Annotated[
        str, typer.Option(help="How values are stored, e.g. float16, int8, merge-32+int8; docs/policies.md.")
    ] = "float16",
    limit: Annotated[int | None, typer.Option(help="Samples taken at most.", show_default=False)] = None,
    shard_rows: Annotated[
        int | None,
        typer.Option(help="Rows of one work unit; chosen by size if not given.", show_default=False),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Pictures a forward pass; 32 on a CPU, 256 on a GPU.", show_default=False),
    ] = None,
    device: opt.Device = "auto",
    image_size: Annotated[
        int | None, typer.Option(help="Picture size instead of the checkpoint's, pixels.", show_default=False)
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Token limit instead of the tokenizer's.", show_default=False)
    ] = None,
    views: Annotated[
        int,
        typer.Option(
            help="Augmented views of each picture, a feature each: NAME-view1, NAME-view2, ...; 0: the "
            "picture itself, as the encoder's processor prepares it."
        ),
    ] = 0,
    view: Annotated[
        str,
        typer.Option(help="What the views are; options as random-resized-crop?scale=0.5,1&flip=0.5."),
    ] = "random-resized-crop",
    view_seed: Annotated[
        int, typer.Option(help="Decides the views, with their numbers and the ids of the rows.")
    ] = 0,
    max_failed: Annotated[float, typer.Option(help="Share of rows that may be unreadable.")] = 0.1,
    thumbnails: Annotated[int, typer.Option(help="Longer side of kept thumbnails, pixels; 0: none.")] = 128,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OURS=THEIRS",
            help="Name of a column (table, data set) or member (tars), e.g. caption=title or "
            "caption=json:title; empty: not read; repeatable.",
        ),
    ] = None,
    image_root: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Folder or URL that the pictures which a file names are relative to.",
            show_default=False,
        ),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(help="Language of captions that name none. \\[default: en]", show_default=False),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Threads or processes that decode pictures; one a core if not given.", show_default=False
        ),
    ] = None,
    decode: Annotated[
        str,
        typer.Option(help="threads, or processes where threads cannot feed a GPU from many cores."),
    ] = "threads",
    seed: Annotated[int, typer.Option(help="Of the row order.")] = 0,
    append: Annotated[
        str | None,
        typer.Option(
            metavar="A",
            help="Continue the features of store A over new rows: STORE becomes a store of its own, read "
            "with the other as A+STORE. Encoders, policy and names are those of A unless encoders are given "
            "(they must be the same); ids that A has already are refused.",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="local: on this machine; ray: on a Ray cluster (docs/engines.md).")
    ] = "local",
    devices: Annotated[
        str | None,
        typer.Option(
            help="One process a device: 0,1 or all (GPUs), cpu,cpu or 2xcpu; else this process alone.",
            show_default=False,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            help="Threads that compute, in each process; OMP_NUM_THREADS or a share of the cores if not "
            "given.",
            show_default=False,
        ),
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Make only every N-th unit from the I-th on (1/N to N/N): N runs of a job array that know "
            "nothing of each other fill one store.",
            show_default=False,
        ),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Ray cluster, e.g. auto or HOST:6379; RAY_ADDRESS, or a Ray of this machine if not given.",
            show_default=False,
        ),
    ] = None,
    ray_workers: Annotated[
        int | None,
        typer.Option(help="Actors on Ray; one a GPU, or one a machine if not given.", show_default=False),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell bytes, time and rate, from a probe.")
    ] = False,
    tokenize_all: Annotated[
        bool,
        typer.Option(
            "--tokenize-all", help="With --dry-run: count the tokens of every text, for exact bytes."
        ),
    ] = False,
    json: opt.Json = False,
) -> None:
    """Run frozen encoders once over pictures and texts into a store.

    Run it again after an interruption: it makes only what is missing. Run it with another encoder: it adds
    that feature.
    """
    from embedstore.encode import EncodeOptions, EngineOptions, Part, dry_run_source, encode_source
    from embedstore.encode.engines.devices import spare_gpus
    from embedstore.store.joined import refuse_joined

    if not image_encoder and not text_encoder and append is None:
        raise UsageError("no encoder given", todo="add --image-encoder SPEC or --text-encoder SPEC")
    refuse_joined(store, what="encode")
    chosen = EncodeOptions(
        seed=seed,
        limit=limit,
        policy=policy,
        shard_rows=shard_rows,
        batch_size=batch_size,
        device=device,
        image_size=image_size,
        max_length=max_length,
        thumbnails=thumbnails,
        views=views,
        view=view,
        view_seed=view_seed,
        max_failed=max_failed,
        workers=workers,
        decode=decode,  # type: ignore[arg-type]  # refused there if it is another word
        columns=_columns(column or []),
        image_root=image_root,
        language=language,
    )
    by = EngineOptions(
        engine=engine,
        devices=devices,
        part=Part() if part is None else Part.parse(part),
        threads=threads,
        ray_address=ray_address,
        ray_workers=ray_workers,
    )
    if engine == "local" and devices is None:
        render.warn_of_idle_gpu(device)
        if spare := spare_gpus(device):
            render.warn(spare)
    encoders = {"image_encoders": image_encoder or [], "text_encoders": text_encoder or []}
    if dry_run:
        plan = dry_run_source(
            source, store, options=chosen, append=append, tokenize_all=tokenize_all, **encoders
        )
        render.print_json(plan.to_dict()) if json else _show_dry_run(plan)
        if not json and by != EngineOptions(threads=threads):
            render.say("times are of one process on this machine that makes everything")
        return
    with render.bars(quiet=json) as bars:

        def show(at: Progress) -> None:
            rate = f"{at.fresh / at.seconds:.1f}/s" if at.fresh and at.seconds else ""
            what = f"{at.feature} ({at.table}, {at.device})"
            if at.step == "calibrate":
                what = f"{at.feature}: learning {policy}"
            bars.update(what, done=at.done, total=at.total, note=rate)

        try:
            summary = encode_source(
                source,
                store,
                options=chosen,
                append=append,
                engine=by,
                on_progress=show,
                on_warning=render.warn,
                **encoders,
            )
        except KeyboardInterrupt:
            _say_what_remains(store)
            raise
    render.print_json(summary.to_dict()) if json else _show(summary)
    if append is not None and not json:
        render.say(f"read both as one: {append}+{store}")


def _columns(pairs: list[str]) -> dict[str, str]:
    columns = {}
    for pair in pairs:
        ours, equals, theirs = pair.partition("=")
        if not (ours and equals):
            allowed = "OURS=THEIRS; OURS= is not read"
            raise UsageError("bad column mapping", where="--column", found=pair, allowed=allowed)
        columns[ours] = theirs
    return columns


def _say_what_remains(store: str) -> None:
    render.warn("what is finished is kept; run the same command again to go on")
    from embedstore.store import open_store

    try:
        opened = open_store(store)
    except StoreNotFoundError:
        return
    for name in opened.features():
        done, units = opened.progress(name)
        if done < units:
            render.warn(f"{name}: {done} of {units} units are stored, {units - done} remain")


def _show(summary: EncodeSummary) -> None:
    for reason, count in summary.dropped.items():
        if count:
            render.warn(f"left out of the source: {count} {reason}")
    for feature in summary.features:
        header, whole = feature.header, feature.manifest
        rate = feature.fresh / feature.seconds if feature.seconds else 0.0
        made = (
            f"{feature.fresh} rows in {render.duration(feature.seconds)} ({rate:.1f}/s, {feature.device})"
            if feature.fresh
            else "nothing was missing"
        )
        size = f"{feature.missing_units} of {header.units} units remain for other parts"
        if whole is not None:
            size = render.size(whole.nbytes)
        render.say(f"{feature.name}: {header.rows} {header.table}, {size}; {made}")
        if feature.sampled:
            render.say(f"{feature.name}: {header.policy} was learnt from {feature.sampled} rows")
        if feature.truncated:
            limit = header.card.tokenizer.max_length if header.card.tokenizer else 0
            render.warn(f"{feature.name}: {feature.truncated} texts were cut at {limit} tokens")
        if whole is not None and whole.quarantined:
            render.warn(
                f"{feature.name}: {whole.quarantined} rows quarantined; reasons in "
                f"{summary.store}/features/{feature.name}/quarantine.parquet and by `embedstore info`"
            )


def _show_dry_run(plan: DryRun) -> None:
    render.table(
        "What encode would make",
        ("feature", "rows", "missing", "size", "rate", "time"),
        (
            (
                f.name,
                f.rows,
                f.missing,
                render.size(f.nbytes),
                f"{f.rate:.1f}/s" if f.rate else "–",
                f"with {f.made_with}" if f.made_with else render.duration(f.seconds),
            )
            for f in plan.features
        ),
    )
    free = "" if plan.free_bytes is None else f"; free on this disk: {render.size(plan.free_bytes)}"
    render.say(f"{render.size(plan.missing_bytes)} to write, {render.duration(plan.seconds)}{free}")
    sampled = ", ".join(f.name for f in plan.features if not f.exact)
    if sampled:
        render.say(
            f"size of {sampled}: from a sample of thumbnails or texts; --tokenize-all counts all texts"
        )
    for feature in plan.features:
        if feature.calibration_rows:
            seconds = feature.calibration_rows / feature.rate
            render.say(
                f"{feature.name}: the policy learns from {feature.calibration_rows} rows, which are encoded "
                f"once more than the others ({render.duration(seconds)} of the time above)"
            )
    if plan.advice:
        render.warn(plan.advice)

"""The verb `encode`: plan once, then make every feature that is missing, unit by unit, by some engine."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from embedstore.encode.engines.devices import parse_devices
from embedstore.encode.engines.here import encode_here
from embedstore.encode.engines.options import EngineOptions
from embedstore.encode.options import EncodeOptions
from embedstore.encode.session import EncodeRequest
from embedstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from os import PathLike
    from pathlib import Path

    from embedstore.encode.progress import EncodeSummary, Progress


def encode_source(
    source: str,
    store: str | PathLike[str],
    *,
    image_encoders: Sequence[str] = (),
    text_encoders: Sequence[str] = (),
    options: EncodeOptions | None = None,
    append: str | Path | None = None,
    engine: EngineOptions | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_warning: Callable[[str], None] | None = None,
) -> EncodeSummary:
    """Encode `source` into `store`, a folder or URL: the features of each `[NAME=]SPEC`.

    Makes only what is missing: killed at any moment and run again, the files come out byte-identical. Raises
    `MismatchError` where the source or an encoder differs from what the store was made from,
    `TooManyFailedError` where more rows than `options.max_failed` cannot be read; finished units stay.
    `StorageValueError` where there are too few rows for a policy that learns: a sample of them is encoded
    first then, once more than the others.

    `append`: a store (or `A+B`) whose features are made here over new rows, so that `append+store` reads as
    one; encoders are then those of its features, and ids that it has already are refused.

    `engine`: which processes make the units, by default this one alone; the same bytes come out where each
    computes with as many threads. `on_warning` is told of workers that die; `EngineError` where they go on
    dying.
    """
    engine = engine or EngineOptions()
    request = EncodeRequest(
        source=source,
        store=str(store),
        image_encoders=tuple(image_encoders),
        text_encoders=tuple(text_encoders),
        options=options or EncodeOptions(),
        append=None if append is None else str(append),
    )
    report, warn = on_progress or (lambda _: None), on_warning or (lambda _: None)
    if engine.engine == "ray":
        from embedstore.encode.engines.ray_actors import encode_on_ray

        return encode_on_ray(request, engine, on_progress=report, on_warning=warn)
    devices = _devices(request.options, engine)
    if len(devices) == 1:
        alone = replace(request, options=replace(request.options, device=devices[0]))
        return encode_here(alone, part=engine.part, threads=engine.threads, on_progress=report)
    from embedstore.encode.engines.local import encode_on_devices

    return encode_on_devices(request, devices, engine, on_progress=report, on_warning=warn)


def _devices(options: EncodeOptions, engine: EngineOptions) -> list[str]:
    if engine.devices is None:
        return [options.device]
    if options.device != "auto":
        raise UsageError(
            "--device and --devices say the same",
            found=f"--device {options.device} --devices {engine.devices}",
            todo="give one of them",
        )
    return parse_devices(engine.devices)

"""Small random stores made by the real writer, without any encoder: for tests of what reads stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa

from embedstore.documents import EncoderCard, Plan, ProcessorCard, TokenizerCard
from embedstore.store import FeatureWriter, Store, create_store, open_store, plan_feature
from embedstore.store.tables import IMAGES, TEXTS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from embedstore.documents import FeatureHeader, PolicyName
    from embedstore.shapes import AnyArray, Float32Array, IntArray

CLASSES = ("circle", "square", "star", "cross")


def random_card(
    modality: Literal["image", "text"],
    *,
    width: int,
    tokens: int,
    prefix: int = 1,
    registers: int = 0,
    pooled_width: int | None = None,
    seed: int = 0,
) -> EncoderCard:
    """A card of an encoder that does not exist; `tokens` must be a square for images."""
    side = round(tokens**0.5)
    image = modality == "image"
    return EncoderCard(
        modality=modality,
        library="python",
        architecture="Random",
        model=f"random-{modality}-{seed}",
        weights_sha256=f"{seed:064x}",
        final_norm=True,
        width=width,
        pooled_width=pooled_width or width,
        pooling="random",
        grid=(side, tokens // side) if image else None,
        prefix=prefix if image else 0,
        registers=registers if image else 0,
        processor=ProcessorCard(
            class_name="Random",
            backend="pil",
            size=(8 * side, 8 * side),
            resize="none",
            interpolation="bicubic",
            crop=None,
            rescale=1 / 255,
            mean=(0.5,) * 3,
            std=(0.5,) * 3,
        )
        if image
        else None,
        tokenizer=None if image else TokenizerCard(class_name="Random", sha256="0" * 64, max_length=tokens),
        versions={},
    )


def random_plan(*, images: int, captions: int, seed: int = 0, languages: Sequence[str] = ("en",)) -> Plan:
    """The plan of `write_random_store`: splits train, val, test in turn 8:1:1, four classes."""
    splits = [_split(i) for i in range(images)]
    spoken = [languages[k % len(languages)] for k in range(captions)]
    return Plan(
        source={"kind": "random", "seed": seed},
        source_sha256=f"{seed:064x}",
        order="source",
        seed=seed,
        images=images,
        texts=images * captions,
        classes=CLASSES,
        splits={s: splits.count(s) for s in ("train", "val", "test") if s in splits},
        languages={language: images * spoken.count(language) for language in dict.fromkeys(spoken)},
        roles={"caption": images * captions} if captions else {},
    )


def _split(row: int) -> str:
    return "train" if row % 10 < 8 else "val" if row % 10 == 8 else "test"


def random_tables(
    *, images: int, captions: int, classes: IntArray, ids: str = "s", languages: Sequence[str] = ("en",)
) -> tuple[pa.Table, pa.Table]:
    """The images and texts tables of `write_random_store`; every id begins with `ids`."""
    pictures = [
        {
            "id": f"{ids}{i:06d}",
            "picture": f"{ids}{i:06d}.png",
            "nbytes": 100 + i,
            "label": CLASSES[classes[i]],
            "split": _split(i),
        }
        for i in range(images)
    ]
    words = [
        {
            "id": f"{ids}{i:06d}#{k}",
            "image": i,
            "text": f"a {CLASSES[classes[i]]}, wording {k}",
            "language": languages[k % len(languages)],
            "role": "caption",
            "category": None,
        }
        for i in range(images)
        for k in range(captions)
    ]
    return pa.Table.from_pylist(pictures, schema=IMAGES), pa.Table.from_pylist(words, schema=TEXTS)


def write_random_store(
    path: Path,
    *,
    images: int = 64,
    captions: int = 2,
    image_tokens: int = 9,
    image_width: int = 16,
    text_width: int = 12,
    max_tokens: int = 8,
    seed: int = 0,
    prefix: int = 1,
    registers: int = 0,
    policy: PolicyName = "float16",
    shard_rows: int | None = None,
    noise: float = 0.5,
    ids: str = "s",
    card_seed: int | None = None,
    languages: Sequence[str] = ("en",),
) -> Store:
    """Make a whole store with the features "vision" and "words" at `path`.

    Splits train, val, test in turn 8:1:1; the label is one of four classes. An image and its captions
    share a latent vector that depends on the class too; tokens are fixed linear maps of it plus `noise`
    times a normal, so a head can learn to match them. Rows of the same arguments are always the same.
    The captions of an image take `languages` in turn. `ids` begins every id, and `card_seed` (default:
    `seed`) decides the encoders: stores with other ids and the same `card_seed` may be read as one.
    """
    random = np.random.default_rng(seed)
    cards = seed if card_seed is None else card_seed
    classes = random.integers(len(CLASSES), size=images)
    latent = random.normal(size=(images, 8)) + 2.0 * random.normal(size=(len(CLASSES), 8))[classes]
    plan = random_plan(images=images, captions=captions, seed=seed, languages=languages)
    pictures, words = random_tables(
        images=images, captions=captions, classes=classes, ids=ids, languages=languages
    )
    create_store(path, plan, images=[pictures], texts=[words])
    maps = {
        w: random.normal(size=(8, width)) / 8**0.5 for w, width in (("v", image_width), ("t", text_width))
    }

    def noisy(values: AnyArray) -> Float32Array:
        return (values + noise * random.normal(size=values.shape)).astype(np.float32)

    vision = plan_feature(
        name="vision",
        plan=plan,
        card=random_card(
            "image", width=image_width, tokens=image_tokens, prefix=prefix, registers=registers, seed=cards
        ),
        policy=policy,
        shard_rows=shard_rows,
    )
    seen = latent @ maps["v"]
    arrays = {"tokens": noisy(np.repeat(seen[:, None], image_tokens, axis=1)), "pooled": noisy(seen)}
    if prefix:
        arrays["prefix"] = noisy(np.repeat(seen[:, None], prefix, axis=1))
    write_feature(path, vision, arrays)
    text = plan_feature(
        name="words",
        plan=plan,
        card=random_card("text", width=text_width, tokens=max_tokens, seed=cards),
        policy=policy,
        shard_rows=shard_rows,
    )
    lengths = random.integers(1, max_tokens + 1, size=plan.texts)
    meant = np.repeat(latent, captions, axis=0) @ maps["t"]
    write_feature(
        path,
        text,
        {"tokens": noisy(np.repeat(meant, lengths, axis=0)), "lengths": lengths, "pooled": noisy(meant)},
    )
    return open_store(path)


def write_feature(path: Path, header: FeatureHeader, arrays: dict[str, AnyArray]) -> None:
    """Write a whole feature from whole arrays through the real writer; text tokens back to back."""
    writer = FeatureWriter.open(path, header)
    ends = np.concatenate([[0], np.cumsum(arrays["lengths"])]) if "lengths" in arrays else None
    for unit in writer.missing_units():
        rows = header.unit_rows(unit)
        part = {name: values[rows.start : rows.stop] for name, values in arrays.items()}
        if ends is not None:
            part["tokens"] = arrays["tokens"][ends[rows.start] : ends[rows.stop]]
        writer.write_unit(unit, part)  # type: ignore[arg-type]  # names are checked by the writer
    writer.finish()

"""`--append`: the next part of a data set, a store of its own that reads as one with what is there (`A+B`).

The tables and the plan of a store never change, so new rows become a new store. What this adds to a plain
encode: ids that are there already are refused before anything is written, and every feature is made by the
encoder, under the policy and with the name of the feature that it continues.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedstore.documents import parse_named
from embedstore.encode.features import FeatureJob, ImageJob, TextJob
from embedstore.encoders import default_name, encoder_for_card
from embedstore.errors import MismatchError, UsageError
from embedstore.store import files, layout, open_store, plan_feature
from embedstore.store.geometry import effective_policy
from embedstore.store.ids import places_of, shown
from embedstore.store.joined_feature import refuse_other_feature

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike
    from pathlib import Path

    from embedstore.documents import Plan
    from embedstore.encode.options import EncodeOptions
    from embedstore.encode.plan import PlannedSource
    from embedstore.store import Store

_FOLLOWED = "with --append it follows the store that is appended to"


def open_parent(append: str | PathLike[str], store: Path, options: EncodeOptions) -> Store:
    """The store (or `A+B`) that new rows are appended to.

    Raises `UsageError` where `store` is one of its parts, and for options that must be those of the parent.
    """
    parent = open_store(append)
    if any(part.path.resolve() == store.resolve() for part in parent.parts):
        raise UsageError(
            "a store cannot be appended to itself: its tables and its plan never change",
            found=store,
            todo=f"give the new rows a store of their own: embedstore encode SOURCE NEW --append {append}",
        )
    for option, value in (("--image-size", options.image_size), ("--max-length", options.max_length)):
        if value is not None:
            raise UsageError(f"{option} cannot be chosen here", found=value, todo=_FOLLOWED)
    return parent


def refuse_known_rows(planned: PlannedSource, parent: Store) -> None:
    """`MismatchError` that names ids which the parent has already, or class ids that mean something else."""
    images = (row["id"] for row in planned.image_rows())
    texts = (row["id"] for row in planned.text_rows())
    for table, column, ids in (
        ("images", parent.images(["id"])["id"], list(images)),
        ("texts", parent.texts(["id"])["id"], list(texts)),
    ):
        there = [ids[i] for i in (places_of(column, ids) >= 0).nonzero()[0]]
        if there:
            raise MismatchError(
                f"{len(there)} of {len(ids)} ids of the table {table!r} are in the store already",
                where=parent.path,
                found=shown(there),
                todo="leave these rows out of the source, or give the samples other ids",
            )
    plan = parent.plan
    if planned.plan.masks and plan.masks and planned.plan.classes != plan.classes:
        raise MismatchError(
            "the class ids of the masks would not mean the same",
            where=parent.path,
            found=f"{len(planned.plan.classes)} classes, first {planned.plan.classes[:3]}",
            allowed=f"{len(plan.classes)} classes, first {plan.classes[:3]}",
        )


def plan_appended(
    plan: Plan,
    parent: Store,
    image_encoders: Sequence[str],
    text_encoders: Sequence[str],
    options: EncodeOptions,
) -> list[FeatureJob]:
    """The parent's features to be made over new rows: all, or those that are named by `[NAME=]SPEC`.

    Encoders that are not given are found as everywhere else: by the memory of this user, or by the model's
    public name. Raises `UsageError` for a name that the parent has not, `EncoderError` with the differing
    fields for another encoder, `MismatchError` for a feature that could not be read as one.
    """
    given = [_named(text) for text in (*image_encoders, *text_encoders)]
    wanted: dict[str, str | None] = dict(given) if given else dict.fromkeys(parent.features())
    if not wanted:
        raise UsageError(
            "the store has no feature to continue", where=parent.path, todo="encode its own rows first"
        )
    return [job for name, spec in wanted.items() if (job := _continued(plan, parent, name, spec, options))]


def _continued(
    plan: Plan, parent: Store, name: str, spec: str | None, options: EncodeOptions
) -> FeatureJob | None:
    """The job of one feature; none where there are no new rows for its table."""
    if name not in parent.features():
        raise UsageError(
            f"no feature {name!r} to continue",
            where=parent.path,
            allowed=", ".join(parent.features()),
            todo="name it: NAME=SPEC",
        )
    old = parent.header(name)
    if not (plan.images if old.table == "images" else plan.texts):
        return None
    if effective_policy(options.policy, old.card).name not in ("float16", old.policy):
        raise UsageError(
            "--policy cannot be chosen here",
            where=f"feature {name!r}",
            found=options.policy,
            allowed=old.policy,
            todo=_FOLLOWED,
        )
    if old.card.library == "imported":
        raise UsageError(
            "an imported feature cannot be continued by encoding",
            where=f"feature {name!r}",
            todo="name the features to continue with --image-encoder or --text-encoder NAME=SPEC, and import "
            "this one into the new store",
        )
    encoder = encoder_for_card(old.card, spec, device=options.device)
    header = plan_feature(
        name=name,
        plan=plan,
        card=encoder.card,
        policy=old.policy,
        shard_rows=options.shard_rows,
        thumbnails=old.thumbnails,
        calibration_sha256=old.calibration_sha256,
    )
    refuse_other_feature(old, header, where=parent.path, todo="continue it with the encoder that made it")
    kind = ImageJob if old.table == "images" else TextJob
    return kind(header=header, encoder=encoder, continues=parent[name].path)


def copy_calibration(job: FeatureJob, store: Path) -> None:
    """Commit the calibration of the continued feature, byte for byte, before the header is."""
    if job.continues is not None and job.header.calibration_sha256 is not None:
        learnt = layout.of_feature(job.continues, layout.CALIBRATION)
        files.commit(layout.feature(store, job.header.name) / layout.CALIBRATION, learnt.read_bytes())


def _named(text: str) -> tuple[str, str]:
    name, spec = parse_named(text)
    return name or default_name(spec), spec

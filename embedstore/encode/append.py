"""`--append`: the next part of a data set, a store of its own that reads as one with what is there (`A+B`).

The tables and the plan of a store never change, so new rows become a new store. What this adds to a plain
encode: ids that are there already are refused before anything is written, and every feature is made by the
encoder, under the policy and with the name of the feature that it continues.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embedstore.encode.features import FeatureJob, ImageJob, TextJob, plan_pass
from embedstore.encoders import (
    cards_of,
    encoder_for_cards,
    named_features,
    same_pass,
    split_spec,
    twin_for_cards,
)
from embedstore.errors import MismatchError, UsageError
from embedstore.store import files, layout, open_store
from embedstore.store.geometry import effective_policy
from embedstore.store.ids import places_of, shown
from embedstore.store.joined_feature import refuse_other_feature

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike
    from pathlib import Path

    from embedstore.documents import FeatureHeader, Plan
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
    chosen = (
        ("--image-size", options.image_size),
        ("--max-length", options.max_length),
        ("--views", options.views or None),
    )
    for option, value in chosen:
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
    *,
    options: EncodeOptions,
    begun: Mapping[str, FeatureHeader],
) -> list[FeatureJob]:
    """The parent's features to be made over new rows: all, or those that are named by `[NAME=]SPEC`.

    Encoders that are not given are found as everywhere else: by the memory of this user, or by the model's
    public name. `begun`: what is in the new store already. Raises `UsageError` for a name that the parent has
    not, `EncoderError` with the differing fields for another encoder, `MismatchError` for a feature that
    could not be read as one.
    """
    given = [named for text in (*image_encoders, *text_encoders) for named in named_features(text)]
    wanted: dict[str, str | None] = dict(given) if given else dict.fromkeys(parent.features())
    if not wanted:
        raise UsageError(
            "the store has no feature to continue", where=parent.path, todo="encode its own rows first"
        )
    passes: list[list[tuple[FeatureHeader, str | None]]] = []
    for name, spec in wanted.items():
        old = _to_continue(plan, parent, name, options)
        if old is not None:
            together = next((p for p in passes if all(_one_pass(one, (old, spec)) for one in p)), None)
            if together is None:
                passes.append([(old, spec)])
            else:
                together.append((old, spec))
    jobs: list[FeatureJob] = []
    for features in passes:
        # A feature and its recoded twin are the same output of the encoder.
        cards = list({old.card.fingerprint: old.card for old, _ in features}.values())
        twins = (twin_for_cards(job.encoder, cards) for job in jobs)
        encoder = next((twin for twin in twins if twin is not None), None)
        if encoder is None:
            encoder = encoder_for_cards(cards, features[0][1], device=options.device)
        prints = [card.fingerprint for card in cards]
        outputs = [prints.index(old.card.fingerprint) for old, _ in features]
        olds = [old for old, _ in features]
        headers = plan_pass(
            [old.name for old in olds],
            [cards_of(encoder)[k] for k in outputs],
            plan,
            options,
            begun=begun,
            like=olds,
        )
        for old, header, output in zip(olds, headers, outputs, strict=True):
            jobs.append(_continued(parent, old, header, encoder, output))
    return jobs


def _one_pass(one: tuple[FeatureHeader, str | None], other: tuple[FeatureHeader, str | None]) -> bool:
    specs = {None if spec is None else str(split_spec(spec).without("layers")) for _, spec in (one, other)}
    return len(specs) == 1 and same_pass(one[0].card, other[0].card)


def _to_continue(plan: Plan, parent: Store, name: str, options: EncodeOptions) -> FeatureHeader | None:
    """The parent's feature of a name; none where there are no new rows for its table."""
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
    if not old.card.runs_an_encoder:
        what, again = (
            ("an imported feature", "import this one into the new store")
            if old.card.library == "imported"
            else ("a joint embedding", "make this one with embedstore apply")
        )
        raise UsageError(
            f"{what} cannot be continued by encoding",
            where=f"feature {name!r}",
            todo="name the features to continue with --image-encoder or --text-encoder NAME=SPEC, and "
            f"{again}",
        )
    return old


def _continued(
    parent: Store, old: FeatureHeader, header: FeatureHeader, encoder: Any, output: int
) -> FeatureJob:
    """The job that goes on with the parent's feature `old`."""
    refuse_other_feature(old, header, where=parent.path, todo="continue it with the encoder that made it")
    kind = ImageJob if old.table == "images" else TextJob
    return kind(header=header, encoder=encoder, output=output, continues=parent[old.name].path)


def copy_calibration(job: FeatureJob, store: Path) -> None:
    """Commit the calibration of the continued feature, byte for byte, before the header is."""
    if job.continues is not None and job.header.calibration_sha256 is not None:
        learnt = layout.of_feature(job.continues, layout.CALIBRATION)
        files.commit(layout.feature(store, job.header.name) / layout.CALIBRATION, learnt.read_bytes())

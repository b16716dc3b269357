"""Storage policies of one feature side by side: bytes, read rate, error, and what heads fitted from each do.

The feature is recoded under each policy in a working copy beside the store (its files are linked, not copied,
where the disk can do that), heads of the same seeds are fitted and measured there, and the copy is removed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embedstore.bench import measure_retrieval, measure_zeroshot
from embedstore.documents import Figure, PolicyFigures, PolicyScore, PolicyStudy
from embedstore.encode import recode_feature
from embedstore.errors import EncoderError, StorageValueError, UsageError
from embedstore.fit import fit_head
from embedstore.metrics.intervals import draws_interval
from embedstore.metrics.recall import hits
from embedstore.policies import parse_policy
from embedstore.recipes.policy_measures import cosine_error, read_rate, stored_bytes
from embedstore.store import layout, open_store
from embedstore.store.joined import refuse_joined
from embedstore.store.remote.plan import refuse_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from os import PathLike

    from embedstore.documents import BenchReport, FitConfig
    from embedstore.shapes import FloatArray, IntArray
    from embedstore.store import Feature, Store

POLICIES = (
    "int8",
    "fp8",
    "merge-32",
    "merge-8",
    "merge-8+int8",
    "pca-64",
    "pq-16",
    "cls+mean",
    "cls+mean+int8",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hits:
    """What heads of all seeds found: each way's hits `(s, q)`, and top-1's; a report for its facts.

    images: the image of each query of each way, as numbers from 0 `(all q,)`.
    """

    recall: tuple[FloatArray, ...]
    images: IntArray
    top_1: FloatArray | None
    report: BenchReport
    note: str | None


def study_policies(
    store: str | PathLike[str],
    config: FitConfig,
    *,
    policies: Sequence[str] = POLICIES,
    seeds: int = 3,
    split: str | None = "test",
    text_encoder: str | None = None,
    device: str = "auto",
    on_progress: Callable[[str, int, int], None] | None = None,
) -> PolicyStudy:
    """Measure the feature `config.image` as it is (the base), and recoded under each of `policies`.

    `seeds` heads are fitted from each, with the seeds from `config.seed` on, and measured on `split`:
    Recall@1, the mean of both directions, and zero-shot top-1 where the store has labels. A policy's change
    is to the base, with a 95 % bootstrap interval over seeds and images, the same draws for both. Policies
    that do not fit the feature are left out and told. `on_progress(what, heads done, heads)`.

    Raises as `recode_feature`, `fit_head` and `measure_retrieval` do; `UsageError` where no policy fits,
    `EncoderError` for a text encoder that was asked for and cannot be loaded.
    """
    refuse_joined(store, what="bench policies")
    refuse_url(store, what="bench policies", todo="copy the store to this machine")
    source = open_store(store)
    plain = source[config.image]
    names, left_out = _chosen(plain, policies), {}
    if seeds < 1:
        raise UsageError("no head is fitted", where="--seeds", found=seeds, allowed="1 or more")
    total = (len(names) + 1) * seeds
    tell = on_progress or (lambda *_: None)
    recoded = next(name for name in ("recoded", "again", "anew") if name not in (config.image, config.text))
    with working_copy(source, (config.image, config.text)) as copy:

        def heads(policy: str, image: str, place: int) -> _Hits:
            tell(policy, place * seeds, total)
            return _fitted(
                copy,
                config.model_copy(update={"image": image}),
                seeds=seeds,
                split=split,
                text_encoder=text_encoder,
                device=device,
                on_seed=lambda k: tell(policy, place * seeds + k, total),
            )

        base = heads(plain.header.policy, config.image, 0)
        figures = [_figures(plain, plain, base, base)]
        for place, policy in enumerate(names, 1):
            tell(policy, place * seeds, total)
            try:
                recode_feature(copy, config.image, policy=policy, name=recoded)
            except (UsageError, StorageValueError) as bad:
                left_out[policy] = bad.problem
            else:
                made = open_store(copy)[recoded]
                figures.append(_figures(plain, made, heads(policy, recoded, place), base))
            shutil.rmtree(layout.feature(copy, recoded), ignore_errors=True)
    if len(figures) == 1:
        raise UsageError("no policy fits this feature", where=config.image, found=left_out)
    report = base.report
    return PolicyStudy(
        feature=config.image,
        policies=tuple(figures),
        left_out=left_out,
        config=config,
        seeds=seeds,
        split=split,
        images=report.images,
        texts=report.texts,
        notes=(*report.notes, *([base.note] if base.note else ())),
        store_fingerprint=report.store_fingerprint,
        image_card=plain.card,
        text_card=source[config.text].card,
        versions=report.versions,
        device=report.device,
    )


def _chosen(plain: Feature, policies: Sequence[str]) -> list[str]:
    """Policies by their own names, each once, without the base's; refused before a head is fitted."""
    if plain.coder.policy.shrinks:
        raise UsageError(
            "the tokens of this feature are shrunk already",
            where=plain.name,
            found=plain.header.policy,
            todo="study the feature that it was made from, and that has them all",
        )
    named = dict.fromkeys(parse_policy(policy, where="--policies").name for policy in policies)
    return [name for name in named if name != plain.header.policy]


@contextmanager
def working_copy(source: Store, features: Sequence[str]) -> Iterator[Path]:
    """A store of the same rows with these features only, beside the store where one may write there.

    Files are linked, and copied where the disk has no links; the copy is gone afterwards.
    """
    beside = source.path.parent if os.access(source.path.parent, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix=".embedstore-policies-", dir=beside) as folder:
        copy = Path(folder) / "store"
        copy.mkdir()
        for entry in source.path.iterdir():
            if entry.name != layout.FEATURES:
                _link(entry, copy / entry.name)
        for name in features:
            _link(layout.feature(source.path, name), layout.feature(copy, name))
        yield copy


def _link(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link_file)
    else:
        _link_file(source, target)


def _link_file(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _fitted(
    store: Path,
    config: FitConfig,
    *,
    seeds: int,
    split: str | None,
    text_encoder: str | None,
    device: str,
    on_seed: Callable[[int], None],
) -> _Hits:
    """Fit and measure a head a seed; the head is gone afterwards."""
    ways: dict[str, list[FloatArray]] = {}
    images: list[IntArray] = []
    note = None
    reports = []
    head = store.parent / "head"
    for k in range(seeds):
        seeded = config.model_copy(update={"seed": config.seed + k})
        fit_head(store, seeded, head, device=device, overwrite=True)
        retrieval = measure_retrieval(
            store, head, split=split, language=config.language, role=config.role, device=device
        )
        reports.append(retrieval.report)
        # Sorted by id in every group, and each of the images is in both.
        images = [rows.sample.units for rows in retrieval.outcomes.values()]
        for group, rows in retrieval.outcomes.items():
            ways.setdefault(group, []).append(hits(rows.values["rank"], 1))
        try:
            zeroshot = measure_zeroshot(store, head, split=split, text_encoder=text_encoder, device=device)
            for group, rows in zeroshot.outcomes.items():
                ways.setdefault(group, []).append(hits(rows.values["rank"], 1))
        except (UsageError, EncoderError) as bad:
            if text_encoder is not None and isinstance(bad, EncoderError):
                raise
            note = f"no zero-shot top-1: {bad.problem}"
        on_seed(k + 1)
    shutil.rmtree(head)
    stacked = {group: np.stack(found) for group, found in ways.items()}
    top_1 = stacked.pop("image_to_class", None)
    return _Hits(
        recall=tuple(stacked.values()),
        images=np.concatenate(images),
        top_1=top_1,
        report=reports[0],
        note=note,
    )


def _figures(plain: Feature, feature: Feature, found: _Hits, base: _Hits) -> PolicyFigures:
    """Everything of one policy against the base."""
    error, what = cosine_error(plain, feature)
    itself = found is base
    return PolicyFigures(
        policy=feature.header.policy,
        bytes=stored_bytes(feature),
        tokens=tuple(feature.array("tokens").spec.shape[1:]),
        pictures_per_second=read_rate(feature),
        cosine_error=0.0 if itself else error,
        cosine_of=what,
        recall=_score(found.recall, None if itself else base.recall, images=found.images),
        top_1=None
        if found.top_1 is None or base.top_1 is None
        else _score((found.top_1,), None if itself else (base.top_1,)),
    )


def _score(
    found: Sequence[FloatArray], base: Sequence[FloatArray] | None, *, images: IntArray | None = None
) -> PolicyScore:
    """Mean of the ways' hits `(s, q)`, and its change from the base's, seed by seed and query by query."""
    change = None if base is None else [x - y for x, y in zip(found, base, strict=True)]
    return PolicyScore(
        value=_figure(found, images),
        change=None if change is None else _figure(change, images),
        seeds=tuple(float(np.mean([way[k].mean() for way in found])) for k in range(len(found[0]))),
    )


def _figure(ways: Sequence[FloatArray], images: IntArray | None) -> Figure:
    """Mean over the ways of their means `(s, q)`, with an interval over heads and over images.

    images: of each query of each way; without them each query is an image of its own.
    """
    strata = np.repeat(np.arange(len(ways)), [way.shape[1] for way in ways])
    low, high = draws_interval(np.concatenate(ways, axis=1), strata, seed=0, units=images)
    return Figure(value=float(np.mean([way.mean() for way in ways])), low=low, high=high)

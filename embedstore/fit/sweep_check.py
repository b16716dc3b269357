"""What a sweep looks at before it fits anything: whether each of its heads could be fitted at all."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from embedstore.documents import FitConfig, HeadConfig, load_document
from embedstore.errors import EmbedstoreError, UsageError
from embedstore.fit.checkpoint import Identity, unfinished
from embedstore.fit.config import check_config, without_paths
from embedstore.fit.data import training_data
from embedstore.fit.files import FIT
from embedstore.fit.grid import stream_key
from embedstore.fit.learner import Learner
from embedstore.fit.record import head_record
from embedstore.model import CONFIG

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from embedstore.fit.grid import Member
    from embedstore.store import Store


def checked_records(store: Store, members: Sequence[Member]) -> dict[str, HeadConfig]:
    """The head that each member asks for, by name; what `fit_head` raises for one of them, with its name."""
    records: dict[str, HeadConfig] = {}
    tried: set[str] = set()
    for member in members:
        with _named(member.name):
            check_config(member.config)
            record = records[member.name] = head_record(store, member.config)
            # Heads of one shape need no more than one trial.
            shape = record.to_json() + json.dumps(_of_learners(member.config))
            if shape not in tried:
                _try(record, member.config)
            tried.add(shape)
    return records


def _of_learners(config: FitConfig) -> list[object]:
    """What a learner could refuse besides its head."""
    return [
        config.loss, config.temperature, config.bias, config.positives, config.global_weight,
        config.local_weight, config.micro_batch,
    ]  # fmt: skip


def _try(record: HeadConfig, config: FitConfig) -> None:
    """Build the learner on the host and let it go again."""
    try:
        with torch.random.fork_rng(devices=[]):
            Learner(record, config, device=torch.device("cpu"), epoch_steps=1)
    except (RuntimeError, MemoryError):
        # What the memory cannot hold ends one head, when its turn comes.
        return


def refuse_unread(
    store: Store, groups: Sequence[Sequence[Member]], records: Mapping[str, HeadConfig]
) -> None:
    """What `fit_head` raises for the rows of some pass but the first, which is about to raise it itself.

    Passes that differ by the seed alone read the same rows.
    """
    seen: list[dict[str, object]] = []
    for group in groups:
        first = group[0]
        pooled = records[first.name].text_pooling == "pooled"
        rows = stream_key(first.config) | {"seed": 0, "pooled": pooled}
        if seen and rows not in seen:
            with _named(first.name):
                training_data(store, first.config, pooled_texts=pooled)
        seen.append(rows)


def refuse_another_begun(folder: Path, member: Member, record: HeadConfig) -> None:
    """`UsageError` where an unfinished fit of another head lies in a member's folder."""
    if (begun := unfinished(folder)) is not None:
        now = Identity(fit=member.config, head=record, rows=begun.identity.rows)
        begun.identity.refuse_another(now, begun.path)


def is_finished(folder: Path, member: Member, record: HeadConfig) -> bool:
    """Whether this very head lies there; `UsageError` where it is another one."""
    if not (folder / CONFIG).exists():
        return False
    head = load_document(HeadConfig, folder / CONFIG)
    same = load_document(FitConfig, folder / FIT) == without_paths(member.config)
    rows = (head.store_fingerprint, head.stores, head.rows)
    if same and rows == (record.store_fingerprint, record.stores, record.rows):
        return True
    raise UsageError(
        "a finished head of another configuration or store is already here",
        where=folder,
        todo="name another folder, or replace it with --overwrite",
    )


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except EmbedstoreError as bad:
        where = name if bad.where is None else f"{name}: {bad.where}"
        raise type(bad)(
            bad.problem, where=where, found=bad.found, allowed=bad.allowed, todo=bad.todo
        ) from None

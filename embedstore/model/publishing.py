"""A head as others find it: a folder with its model card, written here or uploaded to a hub."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from embedstore.documents import BenchReport, FitConfig, load_document
from embedstore.errors import HeadError, UsageError
from embedstore.model.fitted import CONFIG, WEIGHTS, load_head
from embedstore.model.hub import Pushed, head_folder, hub_name, upload
from embedstore.model.model_card import README, licence_of, model_card
from embedstore.store import files as safe

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from os import PathLike

FIT = "fit.json"


def push_head(
    head: str | PathLike[str],
    to: str | PathLike[str],
    *,
    reports: Sequence[str | PathLike[str]] = (),
    licence: str | None = None,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    overwrite: bool = False,
) -> Pushed:
    """Write a head with its model card into a folder, or upload it to the hub as `user/name`.

    The folder holds README.md, head.json, head.safetensors, fit.json and the bench `reports` as
    bench/TASK.json; none of them names a place of this machine. `embedstore.load` opens it from either.
    `private`, `revision` (a branch) and `message` are for the hub; `overwrite` for a folder with files in it.
    `UsageError` for a report of another head, `HeadError` where `head` is no finished one, `HubError` as of
    `embedstore.model.hub.upload`.
    """
    name = hub_name(to)
    content = contents(head, reports=reports, licence=licence, name=name)
    if name is not None:
        return upload(
            name, content, private=private, revision=revision, message=message or "Push a head of embedstore"
        )
    asked = {"private": private, "revision": revision, "message": message}
    if any(asked.values()):
        raise UsageError(
            "only the hub has these",
            found=", ".join(option for option, value in asked.items() if value),
            allowed="--to user/name",
        )
    return _written(Path(to), content, overwrite=overwrite)


def contents(
    head: str | PathLike[str],
    *,
    reports: Iterable[str | PathLike[str]] = (),
    licence: str | None = None,
    name: str | None = None,
) -> dict[str, bytes]:
    """Every file of the folder by its path there, head.json last; the weights are checked first."""
    folder = head_folder(head)
    fitted = load_head(folder)
    fit = load_document(FitConfig, folder / FIT, HeadError) if (folder / FIT).is_file() else None
    found: dict[str, BenchReport] = {}
    for file in reports:
        report = load_document(BenchReport, Path(file), UsageError)
        if report.head_sha256 != fitted.sha256:
            raise UsageError(
                "the report is of another head",
                where=os.fspath(file),
                found=f"head {(report.head_sha256 or 'none')[:12]}",
                allowed=f"head {fitted.sha256[:12]}",
                todo="run the bench again with this head",
            )
        if report.task in found:
            raise UsageError("two reports of one task", where=os.fspath(file), found=report.task)
        found[report.task] = report
    card = model_card(fitted, fit, list(found.values()), licence=licence_of(licence), name=name)
    return {
        README: card.encode(),
        **{f"bench/{task}.json": report.to_json().encode() for task, report in found.items()},
        **({FIT: fit.to_json().encode()} if fit else {}),
        WEIGHTS: (folder / WEIGHTS).read_bytes(),
        CONFIG: (folder / CONFIG).read_bytes(),
    }


def _written(folder: Path, content: dict[str, bytes], *, overwrite: bool) -> Pushed:
    """A new folder appears whole; in one that is there, a head.json comes only when all else is in place."""
    if folder.exists() and not folder.is_dir():
        raise UsageError("the output is a file", where=folder, todo="name a folder")
    if folder.is_dir() and any(folder.iterdir()):
        return _replaced(folder, content, overwrite=overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write(draft, content)
        draft.chmod(0o755)
        draft.replace(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return Pushed(place=str(folder), changed=tuple(sorted(content)))


def _replaced(folder: Path, content: dict[str, bytes], *, overwrite: bool) -> Pushed:
    changed = {
        path: data
        for path, data in content.items()
        if not (folder / path).is_file() or (folder / path).read_bytes() != data
    }
    if changed and not overwrite:
        raise UsageError(
            "the folder is not empty",
            where=folder,
            found=f"other or no {', '.join(sorted(changed))}",
            todo="name another folder, or replace its files with --overwrite",
        )
    if changed.keys() & {WEIGHTS, CONFIG}:
        (folder / CONFIG).unlink(missing_ok=True)
        changed[CONFIG] = content[CONFIG]
    _write(folder, changed)
    return Pushed(
        place=str(folder),
        changed=tuple(sorted(changed)),
        unchanged=tuple(sorted(content.keys() - changed.keys())),
    )


def _write(folder: Path, content: dict[str, bytes]) -> None:
    for path, data in content.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        safe.replace(folder / path, data)

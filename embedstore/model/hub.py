"""Heads on the Hugging Face hub: which names mean it, fetching one, and putting one there in one commit."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedstore.errors import EmbedstoreError, HubError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from huggingface_hub import HfApi

PREFIX = "hf:"
FETCHED = ("head.json", "head.safetensors", "fit.json")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9_][A-Za-z0-9._-]*")
_LOGIN = "hf auth login, or set HF_TOKEN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What a push did: files that were written or uploaded, and those that were there already."""

    place: str
    url: str | None = None
    commit: str | None = None
    changed: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def hub_name(place: str | os.PathLike[str]) -> str | None:
    """`user/name` where a place means the hub, or none where it means a folder.

    `hf:user/name` is always the hub. `user/name` is, unless there is a folder `user` here: what lies on this
    machine comes first. A `Path` is always a folder, since it does not keep the dot of `./user/name`.
    `UsageError` for a name that no hub could have.
    """
    if not isinstance(place, str):
        return None
    text = place
    if text.startswith(PREFIX):
        return _checked(text.removeprefix(PREFIX))
    if text.count("/") != 1 or not _NAME.fullmatch(text) or Path(text.partition("/")[0]).exists():
        return None
    return _checked(text)


def _checked(name: str) -> str:
    wrong = not _NAME.fullmatch(name) or "--" in name or ".." in name or name.endswith((".git", ".ipynb"))
    if wrong or name[-1] in "-." or any(len(part) > 96 for part in name.split("/")):
        raise UsageError(
            "not the name of a model on the hub",
            found=name,
            allowed="user/name of letters, digits, '-', '_' and '.', without '--' and '..'",
            todo="name a folder as ./NAME",
        )
    return name


def head_folder(place: str | os.PathLike[str], *, revision: str | None = None, offline: bool = False) -> Path:
    """The folder of a head: the one named, or what the hub has under this name, out of the hub's cache.

    `revision`: branch, tag or commit, of the hub alone. With `offline`, or HF_HUB_OFFLINE=1, only what the
    cache has. `HubError` where the hub has no such model, refuses, or cannot be reached.
    """
    name = hub_name(place)
    if name is None:
        if revision is not None:
            raise UsageError(
                "a folder has no revisions", where=os.fspath(place), found=f"revision {revision}"
            )
        return Path(place)
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(
            name,
            revision=revision,
            allow_patterns=list(FETCHED),
            local_files_only=offline,
            endpoint=_endpoint(),
            library_name="embedstore",
        )
    except Exception as bad:
        raise _said(bad, name, "read") from bad
    return Path(found)


def upload(
    name: str,
    files: Mapping[str, bytes],
    *,
    private: bool = False,
    revision: str | None = None,
    message: str,
) -> Pushed:
    """Put files into the model `name` in one commit, those that it has already left out.

    The model and the branch `revision` are made where they are absent. Either every file is there afterwards
    or none of this call. `HubError` without a token, where the hub refuses, and where `private` is asked for
    of a model that everybody can read.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    if get_token() is None:
        raise HubError(
            "nobody is logged in to the hub", where=name, todo=f"{_LOGIN}; a folder is named ./{name}"
        )
    api = HfApi(endpoint=_endpoint(), library_name="embedstore")
    try:
        api.create_repo(name, private=private or None, exist_ok=True)
        if private:
            _refuse_public(api, name)
        if revision is not None:
            api.create_branch(name, branch=revision, exist_ok=True)
        there = _there(api, name, revision)
        changed = {path: content for path, content in files.items() if not _same(content, there.get(path))}
        url = f"{api.endpoint}/{name}" + (f"/tree/{revision}" if revision else "")
        unchanged = tuple(sorted(files.keys() - changed.keys()))
        if not changed:
            return Pushed(place=name, url=url, unchanged=unchanged)
        made = api.create_commit(
            name,
            [CommitOperationAdd(path, content) for path, content in changed.items()],
            commit_message=message,
            revision=revision,
        )
    except EmbedstoreError:
        raise
    except Exception as bad:
        raise _said(bad, name, "write") from bad
    return Pushed(place=name, url=url, commit=made.oid, changed=tuple(sorted(changed)), unchanged=unchanged)


def _refuse_public(api: HfApi, name: str) -> None:
    if not api.model_info(name).private:
        raise HubError(
            "the model is there already, and public",
            where=name,
            todo="make it private on the hub first, or push without --private",
        )


def _there(api: HfApi, name: str, revision: str | None) -> dict[str, tuple[str | None, str | None]]:
    """Path to git's hash and, of a large file, sha256."""
    info = api.model_info(name, revision=revision, files_metadata=True)
    return {
        each.rfilename: (each.blob_id, each.lfs.sha256 if each.lfs else None) for each in info.siblings or []
    }


def _same(content: bytes, there: tuple[str | None, str | None] | None) -> bool:
    if there is None:
        return False
    blob, sha256 = there
    if sha256 is not None:
        return hashlib.sha256(content).hexdigest() == sha256
    # Git's name of a file is this hash; nothing is trusted because of it.
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == blob


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _said(bad: Exception, name: str, what: str) -> HubError:
    """What the hub's library found, in a line that says what to do."""
    from huggingface_hub import errors

    chain = _causes(bad)
    network = (OSError, errors.HTTPError)  # type: ignore[attr-defined]  # it is there, though not named as public
    answers = (getattr(getattr(each, "response", None), "status_code", None) for each in chain)
    status = next((answer for answer in answers if answer is not None), None)
    first = next((line.strip() for line in str(bad).splitlines() if line.strip()), type(bad).__name__)
    if isinstance(bad, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError) and what == "read":
        return HubError(
            "the hub cannot be reached, and the cache has no such model",
            where=name,
            todo="connect, or take a folder; HF_HUB_OFFLINE=1 reads the cache alone",
        )
    if isinstance(bad, errors.RevisionNotFoundError):
        return HubError("the hub has no such revision of this model", where=name, found=first)
    if status == 403 or isinstance(bad, errors.GatedRepoError):
        return HubError(
            f"the hub does not let you {what} this model", where=name, found=first,
            todo="a token with the right to write, of a member of that name" if what == "write" else _LOGIN,
        )  # fmt: skip
    problem, todo = f"the hub cannot {what} this model", None
    if status == 401 and what == "write":
        problem, todo = "the hub does not accept the token", _LOGIN
    elif status in (401, 404):
        problem = "neither a folder here nor a model on the hub that you can read"
        todo = f"look at the name; for a private model {_LOGIN}"
    elif status is None and any(isinstance(each, network) for each in chain):
        problem = f"the hub cannot be reached to {what} this model"
    return HubError(problem, where=name, found=first, todo=todo)


def _causes(bad: BaseException) -> list[BaseException]:
    return [bad] if bad.__cause__ is None else [bad, *_causes(bad.__cause__)]

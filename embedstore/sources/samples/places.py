"""Where the pictures of a table are looked for.

A path is tried relative to the table's folder, then in `images/` beside the table; with `image_root` there
and nowhere else. An absolute path is accepted only below `image_root`, and is kept relative to it. URLs and
paths that climb out with `..` are refused: it is the user, never a table, who names a server. Links are
followed: they are the user's own way to keep pictures elsewhere. Where the folder is behind a URL, its
pictures are looked up when they are opened, so that planning asks nothing of the server but one picture.
"""

from __future__ import annotations

import os
import posixpath
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedstore.errors import SourceError
from embedstore.sources.reading.files import LocalFile, RemoteFile, at
from embedstore.sources.reading.pictures import FilePicture, RemotePicture
from embedstore.sources.reading.rows import TEXT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from embedstore.sources.reading.files import File
    from embedstore.sources.reading.rows import Rows

_URL = r"^[A-Za-z][A-Za-z0-9+.-]*://"
_NOT_PLAIN = r"^/|//|/$|(^|/)\.\.?(/|$)"
_LOOK_UPS = 16


class Places:
    """The folders in which a table's picture names are tried, in order."""

    def __init__(self, folder: Path | File, image_root: Path | File | None) -> None:
        self.image_root = None if image_root is None else at(image_root)
        if self.image_root is not None and not self.image_root.is_dir():
            raise SourceError("the image root is not a folder", found=image_root)
        folder = at(folder)
        self._bases = [self.image_root] if self.image_root is not None else [folder, folder.child("images")]
        self._local = [str(base) for base in self._bases if isinstance(base, LocalFile)]
        self._remote = [base for base in self._bases if isinstance(base, RemoteFile)]

    def plain_names(self, rows: Rows) -> Any:
        """The `image` column with every name relative, without `.` and `..`. Raises `SourceError`."""
        names = rows.columns["image"]
        odd = _where(
            pc.or_(pc.match_substring_regex(names, _URL), pc.match_substring_regex(names, _NOT_PLAIN))
        )
        if not len(odd):
            return names
        # Few names are odd as a rule: they are put right one by one, the others stay as Arrow data.
        plain = pa.array([self._plain(names[int(row)].as_py(), rows, int(row)) for row in odd], TEXT)
        mask = np.zeros(len(names), dtype=bool)
        mask[odd] = True
        return pc.replace_with_mask(names, pa.array(mask), plain)

    def _plain(self, name: str, rows: Rows, row: int) -> str:
        if pc.match_substring_regex(pa.scalar(name, TEXT), _URL).as_py():
            raise SourceError(
                "a picture is named by a URL, and remote pictures are not read",
                where=rows.place(row),
                found=name[:200],
                todo="download the pictures and name them relative to the table or to --image-root",
            )
        path = posixpath.normpath(name)
        if posixpath.isabs(path):
            path = self._below_root(path, rows, row)
        if path == ".." or path.startswith("../"):
            raise SourceError("a path leaves the image folder", where=rows.place(row), found=name[:200])
        return path

    def _below_root(self, path: str, rows: Rows, row: int) -> str:
        own = self.image_root.path if isinstance(self.image_root, LocalFile) else None
        for root in {own, own.resolve()} if own else ():
            if Path(path).is_relative_to(os.path.abspath(root)):  # noqa: PTH100 - `resolve` would follow links
                return Path(path).relative_to(os.path.abspath(root)).as_posix()  # noqa: PTH100
        raise SourceError(
            "an absolute path outside --image-root",
            where=rows.place(row),
            found=path[:200],
            todo="give --image-root, the folder that holds the pictures",
        )

    def find(self, name: str) -> str | None:
        """The first place of this machine where there is such a file."""
        return next((p for p in self._tried(name) if os.path.isfile(p)), None)  # noqa: PTH113 - a million times

    def _tried(self, name: str) -> list[str]:
        return [f"{base}/{name}" for base in self._local]

    def picture(self, name: str) -> FilePicture | RemotePicture:
        """The picture of this name; one that is nowhere says so when it is opened."""
        if self._remote:
            return RemotePicture(tuple(base.child(name) for base in self._remote), name)
        return FilePicture(Path(self.find(name) or self._tried(name)[0]), name)

    def _there(self, name: str) -> bool:
        if self._remote:
            return any(base.child(name).is_file() for base in self._remote)
        return self.find(name) is not None

    def refuse_none(self, names: Iterable[str], where: str) -> None:
        """Raise `SourceError` where not one of `names` is there: the wrong folder, not a broken picture.

        Behind a URL the first few are asked for.
        """
        first = None
        for name in islice(names, _LOOK_UPS) if self._remote else names:
            first = first or name
            if self._there(name):
                return
        if self.image_root is not None:
            tried = f"{first} under the image root"
        else:
            tried = f"{first} and images/{first}, relative to the table's folder"
        raise SourceError(
            "not one of the pictures is there"
            if not self._remote
            else "not one of the first pictures is there",
            where=where,
            found=f"tried {tried}",
            todo="give --image-root, the folder that holds the pictures",
        )


def _where(mask: Any) -> Any:
    return np.flatnonzero(pc.fill_null(mask, pa.scalar(value=False)).to_numpy(zero_copy_only=False))

"""A store behind a URL, read through its mirror; the same surface as a local one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedstore.store.reader import Store
from embedstore.store.remote.mirror import mirror_of

if TYPE_CHECKING:
    from pathlib import Path

    from embedstore.documents import Plan


class RemoteStore(Store):
    """A store at a URL. `path` is the folder of its mirror, which holds its small files and no shards."""

    def __init__(self, path: Path, plan: Plan) -> None:
        super().__init__(path, plan)
        self._mirror = mirror_of(path)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, at {self.place})"

    @property
    def place(self) -> str:
        """The URL."""
        return self._mirror.remote.url

    @property
    def nbytes(self) -> int:
        """Bytes of the tables and of all finished units; brings no table."""
        return self._mirror.table_sizes() + sum(self.feature_nbytes(name) for name in self.features())

"""What a coordinator and its workers say to each other; each is pickled by a transport."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from embedstore.documents import FeatureHeader
    from embedstore.encode.progress import Progress
    from embedstore.encode.session import EncodeRequest


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The first message to a worker.

    `paths`: where Python looks for modules; `folder`: what other paths are relative to.
    """

    request: EncodeRequest
    threads: int
    paths: tuple[str, ...]
    folder: str


@dataclass(frozen=True)
class Prepare:
    """Plan, load and learn; the first worker, which gets no `passes`, makes what the others find.

    `passes`: the features of each pass, numbered by the first worker for all.
    """

    passes: tuple[tuple[str, ...], ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Lease:
    """A unit of the pass number `of_pass` for a worker; `alone`: it must not have another one beside."""

    of_pass: int
    unit: int
    alone: bool = False


@dataclass(frozen=True)
class NoMore:
    """There is nothing to begin ahead of time: finish what you have, then ask."""


@dataclass(frozen=True)
class Stop:
    """Drop what you have in hand, and end."""


@dataclass(frozen=True)
class Ready:
    """A worker has loaded its libraries."""

    process: int
    host: str


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A worker can make units: the headers of all passes, and what preparing them came to."""

    passes: tuple[tuple[FeatureHeader, ...], ...]
    sampled: Mapping[str, int]
    is_new: bool
    dropped: Mapping[str, int]


@dataclass(frozen=True)
class Ask:
    """A worker has nothing in hand and waits for a unit."""


@dataclass(frozen=True)
class More:
    """A worker could begin another unit of the pass that it is at."""

    of_pass: int


@dataclass(frozen=True)
class Rows:
    """So many more rows of a pass are computed; their unit is not stored yet."""

    of_pass: int
    count: int


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A unit stands in the store, in every feature of its pass."""

    of_pass: int
    unit: int
    quarantined: int
    truncated: int


@dataclass(frozen=True)
class Told:
    """Progress of what comes before the units."""

    progress: Progress


@dataclass(frozen=True)
class Failed:
    """A worker gives up. `everywhere`: any other worker would fail in the same way."""

    error: Exception
    everywhere: bool


@dataclass(frozen=True)
class Died:
    """A worker is gone; said by the transport, once for every start."""

    reason: str


ToWorker: TypeAlias = Setup | Prepare | Lease | NoMore | Stop
FromWorker: TypeAlias = Ready | Prepared | Ask | More | Rows | Stored | Told | Failed | Died

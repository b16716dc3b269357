"""Samples of a tar: members that share a name up to the first dot after the last slash."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from embedstore.errors import SourceError
from embedstore.sources.reading.rows import MOST_BYTES
from embedstore.sources.webdataset.tars import members

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from embedstore.sources.reading.shards import Shards
    from embedstore.sources.webdataset.fields import Wanted
    from embedstore.sources.webdataset.tars import Member

MOST_TEXT = 1 << 30
"""Bytes of texts in one shard: they are in memory together until the shard is read."""

_AT_ONCE = 8
_LINKS = {"link": "links in tars", "sparse": "sparse members", "other": "members of another kind"}


@dataclass
class TarSample:
    """What the members of one sample say; `rank` is the preference of the picture found so far."""

    picture: tuple[int, int, str] | None = None
    rank: int = 1 << 30
    texts: dict[str, bytes] = field(default_factory=dict)
    endings: set[str] = field(default_factory=set)


@dataclass
class Scan:
    """What lies in one shard, by the shared names in their order."""

    samples: dict[str, TarSample] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    text_bytes: int = 0


def scan_shards(shards: Shards, wanted: Wanted) -> Iterator[Scan]:
    """What lies in each shard, in their order."""
    numbers = range(len(shards.files))
    if not any(file.remote for file in shards.files):
        yield from (_scan(shards, shard, wanted) for shard in numbers)
        return
    # Headers of remote tars come a request each: several shards at once, few results waiting.
    with ThreadPoolExecutor(_AT_ONCE, "headers") as pool:
        for first in range(0, len(shards.files), 2 * _AT_ONCE):
            yield from pool.map(lambda s: _scan(shards, s, wanted), numbers[first : first + 2 * _AT_ONCE])


def _scan(shards: Shards, shard: int, wanted: Wanted) -> Scan:
    found, where = Scan(), shards.files[shard].name
    with shards.scanning(shard) as (read, end):
        for member in members(read, where=where, end=end):
            if member.kind == "file":
                _add_member(found, member, read, wanted, where)
            elif member.kind in _LINKS:
                found.dropped[_LINKS[member.kind]] += 1
    return found


def _add_member(
    found: Scan, member: Member, read: Callable[[int, int], bytes], wanted: Wanted, where: str
) -> None:
    named = _key_and_ending(member.name, found.dropped)
    if named is None:
        return
    key, ending = named
    sample = found.samples.setdefault(key, TarSample())
    if ending in sample.endings:
        raise SourceError("a member stands twice", where=where, found=f"{key}.{ending}")
    sample.endings.add(ending)
    if ending in wanted.pictures:
        if wanted.pictures[ending] < sample.rank:
            sample.rank = wanted.pictures[ending]
            sample.picture = member.offset, member.nbytes, ending
    elif ending not in wanted.texts:
        found.others[ending] += 1
    elif member.nbytes > MOST_BYTES:
        found.dropped["texts that are too long"] += 1
    else:
        text = read(member.offset, member.nbytes)
        if len(text) < member.nbytes:
            raise SourceError("a tar that is cut off", where=where, found=f"{key}.{ending}")
        sample.texts[ending] = text
        found.text_bytes += len(text)
        if found.text_bytes > MOST_TEXT:
            raise SourceError("too much text in one tar", where=where, allowed=f"{MOST_TEXT} bytes")


def _key_and_ending(name: bytes, dropped: Counter[str]) -> tuple[str, str] | None:
    # None for members that are no part of a sample: hidden ones, `__meta__`, those without an ending.
    try:
        text = name.decode()
    except UnicodeDecodeError:
        dropped["names that are not UTF-8"] += 1
        return None
    while text.startswith("./"):
        text = text[2:]
    parts = text.split("/")
    if text.startswith("/") or ".." in parts or "\0" in text or "\\" in text:
        dropped["names that lead out of the tar"] += 1
        return None
    base, dot, ending = parts[-1].partition(".")
    if not base or not dot or not ending or (base.startswith("__") and base.endswith("__")):
        dropped["members that belong to no sample"] += bool(base)
        return None
    return "/".join([*parts[:-1], base]), ending.lower()

"""The source `webdataset:PATTERN`: tar shards of pictures and texts, planned from their headers."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.errors import SourceError, UsageError
from embedstore.sources.reading.patterns import expand
from embedstore.sources.reading.shards import PackedPicture, Shards
from embedstore.sources.samples.gathering import Gathered
from embedstore.sources.samples.grouped import GroupedSource
from embedstore.sources.samples.grouping import check_language
from embedstore.sources.webdataset.fields import Values, Wanted
from embedstore.sources.webdataset.scan import Scan, scan_shards
from embedstore.sources.wording import split_options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from embedstore.sources.reading.files import File

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz")
_OPTIONS: dict[str, Sequence[str] | None] = {
    "split": None,
    "ids": ("key", "shard"),
    "order": ("shuffled", "source"),
}


class WebDatasetSource(GroupedSource):
    """Samples of tar shards: members that share a name up to its first dot after the last slash.

    A sample's `image` is its member `jpg`, `png`, `webp` …, its `caption` the member `txt` or the key
    `caption` of its `json` (a list `captions` of the JSON goes before both), its `label` the member `cls` or
    the key `label`; `language` and `split` come from the JSON. `columns` names other endings or keys
    (`caption=json:title`, `image=left.jpg`, several with `;`; an empty name: not read). The id is the shared
    name; `ids="shard"` puts the shard's name before it, where shards count from zero each.

    Planning reads headers and texts, never a picture. Pictures are then read by offset: plain tars of this
    machine in shuffled order, gzipped and remote ones in their own (`order` says otherwise). `split` is the
    split of all samples that name none.

    Left out and counted in `dropped`: links, devices and sparse members, names that lead out of the tar,
    texts that are no UTF-8, hold a NUL byte or are too long, JSON that cannot be read. Refused with
    `SourceError`: damaged and cut tars, gzip bombs, a member that stands twice, two samples with one id.
    """

    def __init__(
        self,
        pattern: str | Path,
        *,
        columns: Mapping[str, str] | None = None,
        language: str = "en",
        split: str | None = None,
        ids: str = "key",
        order: str | None = None,
    ) -> None:
        columns = dict(columns or {})
        files = expand(str(pattern), endings=TAR_ENDINGS, what="tar shard")
        wanted = Wanted.of(columns, check_language(language), split)
        self._shards = Shards(files, in_order=order != "shuffled")
        self._index = _Index(wanted, ids)
        for shard, found in enumerate(scan_shards(self._shards, wanted)):
            self._index.add(shard, files[shard], found)
        if not len(self._index.gathered):
            raise SourceError(
                "no samples in these tars",
                found=self._index.others() or "no members",
                allowed=", ".join(f"{k}: {' or '.join(v)}" for k, v in wanted.fields.items() if v),
                todo="name the endings with --column, e.g. image=jpeg or caption=json:title",
            )
        self.dropped: dict[str, int] = {what: n for what, n in self._index.dropped.items() if n}
        self._samples = self._index.gathered.done()
        self._index.refuse_twice(self._samples.ids, files)
        self.shuffled = self._order(order)
        self._shards.in_order = not self.shuffled
        identity: dict[str, str | int | float | bool] = {
            "kind": "webdataset",
            "language": wanted.language,
        }
        identity |= {"ids": ids} if ids != "key" else {}
        identity |= {"split": split} if split is not None else {}
        identity |= {f"column {ours}": theirs for ours, theirs in sorted(columns.items())}
        self._identity = identity

    @classmethod
    def from_spec(cls, rest: str, **options: Any) -> WebDatasetSource:
        """The source of `webdataset:PATTERN?split=NAME&ids=shard&order=source`."""
        place, said = split_options(rest, _OPTIONS)
        return cls(place, **(said | options))

    def _order(self, order: str | None) -> bool:
        in_order = any(self._shards.gzipped)
        if order == "shuffled" and in_order:
            raise UsageError(
                "gzipped tars can only be read in their own order",
                found="order=shuffled",
                todo="gunzip them",
            )
        if order is not None:
            return order == "shuffled"
        return not in_order and not any(file.remote for file in self._shards.files)

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels that occur; numbers by their size, names sorted."""
        return sorted_labels(self._samples.label.values)

    def _picture(self, index: int, id_: str) -> PackedPicture | None:
        return self._index.picture(index, id_, self._shards)


def sorted_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """Labels in the order of their numbers where all are numbers, else sorted as text."""
    if all(label.isascii() and label.isdigit() for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))


class _Index:
    """Where the pictures lie, and the samples as they are gathered: some 50 bytes a sample and its texts."""

    def __init__(self, wanted: Wanted, ids: str) -> None:
        self._wanted, self._ids = wanted, ids
        self.gathered, self.dropped, self._others = Gathered(), Counter[str](), Counter[str]()
        self._shard, self._offset, self._nbytes = array("i"), array("q"), array("i")
        self._ending, self._endings = array("b"), list(wanted.pictures)
        self._keys: list[str] | None = [] if wanted.fields["id"] else None

    def add(self, shard: int, file: File, found: Scan) -> None:
        """The samples of one shard."""
        self.dropped.update(found.dropped)
        self._others.update(found.others)
        for key, sample in found.samples.items():
            values = Values(sample.texts, self._wanted, self.dropped)
            texts = values.captions()
            if sample.picture is None and not texts:
                self.dropped["samples without picture or text"] += 1
                continue
            offset, nbytes, ending = sample.picture or (0, 0, None)
            self._shard.append(shard)
            self._offset.append(offset)
            self._nbytes.append(min(nbytes, 2**31 - 1))
            if self._keys is not None:
                self._keys.append(key)
            self._ending.append(-1 if ending is None else self._wanted.pictures[ending])
            self.gathered.add(
                self._id(key, file, values),
                texts=texts,
                language=values.language(),
                label=values.first("label"),
                split=values.first("split") or self._wanted.split,
            )

    def _id(self, key: str, file: File, values: Values) -> str:
        if self._wanted.fields["id"]:
            found = values.first("id")
            if found is None:
                raise SourceError("no id in this sample", where=file.name, found=key)
            return found
        return key if self._ids == "key" else f"{file.name.partition('.')[0]}/{key}"

    def others(self) -> str:
        """The endings that were found and not read."""
        return ", ".join(f"{count} .{ending}" for ending, count in self._others.most_common(8))

    def picture(self, index: int, id_: str, shards: Shards) -> PackedPicture | None:
        """The picture of one sample."""
        ending = self._ending[index]
        if ending < 0:
            return None
        key = id_ if self._keys is None else self._keys[index]
        return PackedPicture(
            shards,
            self._shard[index],
            self._offset[index],
            self._nbytes[index],
            f"{key}.{self._endings[ending]}",
        )

    def refuse_twice(self, ids: Any, files: Sequence[File]) -> None:
        """Raise `SourceError` where an id stands twice."""
        codes = ids.dictionary_encode()
        if len(codes.dictionary) == len(ids):
            return
        numbers = codes.indices.to_numpy()
        first = np.full(len(codes.dictionary), -1, np.int64)
        first[numbers[::-1]] = np.arange(len(ids))[::-1]
        again = int(np.flatnonzero(first[numbers] != np.arange(len(ids)))[0])
        one, other = (files[self._shard[at]].name for at in (int(first[numbers[again]]), again))
        raise SourceError(
            "two samples share an id",
            where=f"{one} and {other}",
            found=ids[again].as_py(),
            todo="add ?ids=shard, which puts the shard's name before the id" if one != other else None,
        )

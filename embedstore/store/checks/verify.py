"""Check everything a store promises: tables, headers, records, sizes, checksums, status, leftovers."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from embedstore.errors import CorruptStoreError, MismatchError, StoreError, UsageError
from embedstore.store import geometry, journal, layout
from embedstore.store.advice import make_again
from embedstore.store.checks.prototypes import check_prototypes
from embedstore.store.checks.repair import repair_store
from embedstore.store.checks.report import Finding, VerifyReport
from embedstore.store.checks.sample import Sample
from embedstore.store.checks.subsets import check_subsets
from embedstore.store.checks.tables import check_tables
from embedstore.store.checks.unit import UnitCheck, UnitResult
from embedstore.store.coding.coder import Coder
from embedstore.store.joined import open_joined, refuse_joined, split_joined
from embedstore.store.reader import Store, open_store
from embedstore.store.remote.cache_folder import is_mirrored
from embedstore.store.remote.plan import refuse_read_only
from embedstore.store.remote.verify import RemoteUnitCheck, bring_metadata, push_repair, uncached

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from os import PathLike

    import pyarrow as pa

    from embedstore.documents import FeatureHeader, Table, UnitRecord

_MOST_WORKERS = 8


def verify_store(
    path: str | PathLike[str],
    *,
    repair: bool = False,
    sample: float | None = None,
    seed: int = 0,
    workers: int | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> VerifyReport:
    """Read every byte of a store, each once, and say what does not agree; `A+B` checks every part.

    `sample` reads only that share of the chunks, drawn by `seed`: everything small (tables, headers, records,
    sizes, index checksums) is still checked in full. `workers` threads read; none: one a core, at most 8.
    `repair` removes temporary files, writes damaged Zarr metadata again, and takes damaged units out of the
    journal, so that the same encode makes just these again; do it while nobody writes to the store.
    `on_progress(feature, units done, units)`. Raises as `open_store` does where there is no readable plan,
    and `UsageError` where options do not go together.
    """
    chosen = None if sample is None else Sample(share=sample, seed=seed)
    if repair:
        refuse_joined(path, what="verify --repair")
        refuse_read_only(path, what="verify --repair")
        if chosen is not None:
            raise UsageError("a sample cannot be repaired", todo="leave out --sample or --repair")
    many = min(_MOST_WORKERS, os.cpu_count() or 1) if workers is None else workers
    if many < 1:
        raise UsageError("bad number of threads", where="--workers", found=workers, allowed="1 or more")
    parts = split_joined(str(path)) or [Path(path)]
    with ExitStack() as stack:
        stores = [open_store(stack.enter_context(uncached(part))) for part in parts]
        reports = [_verify(s, chosen, many, on_progress or (lambda *_: None), repair=repair) for s in stores]
        return reports[0] if len(reports) == 1 else _together(parts, stores, reports)


def _verify(
    store: Store,
    sample: Sample | None,
    workers: int,
    on_progress: Callable[[str, int, int], None],
    *,
    repair: bool,
) -> VerifyReport:
    check = _Check(store, sample, workers, on_progress)
    findings = (
        *check_tables(store),
        *check.metadata(),
        *check.features(),
        *check_subsets(store),
        *check_prototypes(store),
        *_leftovers(store),
    )
    done, remaining = (
        repair_store(store, findings) if repair else ([], [f for f in findings if f.kind == "corrupt"])
    )
    if done:
        push_repair(store.path, findings)
    total = check.total
    return VerifyReport(
        features=len(store.features()),
        subsets=len(store.subsets()),
        prototypes=len(layout.prototype_names(store.path)),
        units=check.units,
        files=total.files,
        nbytes=total.nbytes,
        nbytes_read=total.nbytes_read,
        chunks=total.chunks,
        chunks_tested=total.tested,
        sample=None if sample is None else sample.share,
        seed=None if sample is None else sample.seed,
        findings=findings,
        repaired=tuple(done),
        remaining=len(remaining),
    )


def _together(parts: list[Path], stores: list[Store], reports: list[VerifyReport]) -> VerifyReport:
    """The sums over all parts, and whether they can be read as one."""
    findings = [
        replace(f, where=f"{store.place}/{f.where}")
        for store, r in zip(stores, reports, strict=True)
        for f in r.findings
    ]
    try:
        joined = open_joined(parts, stores)
        apart = {name for s in stores for name in s.features()} - set(joined.features())
        findings += [
            Finding(kind="incomplete", where=name, problem="this feature is not in every part, or differs")
            for name in sorted(apart)
        ]
    except MismatchError as bad:
        findings.append(Finding(kind="corrupt", where=str(bad.where), problem=f"{bad.problem}: {bad.found}"))
    return VerifyReport(
        features=sum(r.features for r in reports),
        subsets=sum(r.subsets for r in reports),
        prototypes=sum(r.prototypes for r in reports),
        units=sum(r.units for r in reports),
        files=sum(r.files for r in reports),
        nbytes=sum(r.nbytes for r in reports),
        nbytes_read=sum(r.nbytes_read for r in reports),
        chunks=sum(r.chunks for r in reports),
        chunks_tested=sum(r.chunks_tested for r in reports),
        sample=reports[0].sample,
        seed=reports[0].seed,
        findings=tuple(findings),
        remaining=sum(f.kind == "corrupt" for f in findings),
    )


def _leftovers(store: Store) -> Iterator[Finding]:
    # Of a URL there is none: an object is there whole or not at all.
    for path in () if is_mirrored(store.path) else layout.leftovers(store.path):
        where = path.relative_to(store.path).as_posix()
        yield Finding(kind="leftover", where=where, problem="a temporary file of a writer that was stopped")


class _Check:
    """One pass over a store; `total` sums what was read."""

    def __init__(
        self, store: Store, sample: Sample | None, workers: int, on_progress: Callable[[str, int, int], None]
    ) -> None:
        self.store, self._sample, self._workers, self._on_progress = store, sample, workers, on_progress
        self.units, self.total = 0, UnitResult()

    def metadata(self) -> Iterator[Finding]:
        """The `zarr.json` of every group and array must be what plan and header give."""
        wanted = journal.zarr_files(self.store.path)
        bring_metadata(self.store.path, wanted)
        for relative, data in wanted.items():
            path = self.store.path / relative
            if not path.is_file() and self._begun_at(relative):
                yield Finding(
                    kind="incomplete", where=relative, problem="the Zarr metadata is not written yet"
                )
            elif not path.is_file() or path.read_bytes() != data:
                yield Finding(
                    kind="corrupt",
                    where=relative,
                    problem="the Zarr metadata is missing or differs from the header",
                )

    def _begun_at(self, relative: str) -> bool:
        """Whether a file is of a feature without any unit yet: a writer makes it when it opens."""
        parts = Path(relative).parts
        if len(parts) < 3 or parts[0] != layout.FEATURES:
            return False
        folder = layout.feature(self.store.path, parts[1])
        return not self.store.complete(parts[1]) and not layout.records(folder)

    def features(self) -> Iterator[Finding]:
        """Every feature, complete or begun."""
        for name in self.store.features():
            try:
                yield from self._feature(name)
            except StoreError as bad:
                yield Finding(
                    kind="corrupt", where=f"{layout.FEATURES}/{name}", problem=str(bad), feature=name
                )

    def _feature(self, name: str) -> Iterator[Finding]:
        folder = layout.feature(self.store.path, name)
        header = journal.read_header(folder)
        where = f"{layout.FEATURES}/{name}"
        if header.name != name:
            yield Finding(
                kind="corrupt", where=where, problem=f"the header is of {header.name!r}", feature=name
            )
            return
        geometry.check_header(header, self.store.plan)
        yield from self._calibration(folder, header)
        kind = RemoteUnitCheck if is_mirrored(folder) else UnitCheck
        check = kind(folder, header, lambda row: self._id(header.table, row), self._sample)
        manifest = journal.read_manifest(folder)
        if manifest is None:
            yield from self._begun(folder, header, check)
            return
        records = list(journal.consolidated(folder, header))
        if manifest != journal.manifest(header, records) or len(records) != header.units:
            yield Finding(
                kind="corrupt",
                where=where,
                problem="the manifest does not agree with the unit tables",
                feature=name,
            )
            return
        yield from self._all(header, check, records)

    def _calibration(self, folder: Path, header: FeatureHeader) -> Iterator[Finding]:
        """Without what its policy has learnt, a feature cannot be decoded; nothing here can make it again."""
        try:
            Coder.read(folder, header)
        except CorruptStoreError as bad:
            where = f"{layout.FEATURES}/{header.name}/{layout.CALIBRATION}"
            again = f"; remove it if it is there, then {make_again(self.store.path, header)}"
            yield Finding(kind="corrupt", where=where, problem=bad.problem + again)

    def _begun(self, folder: Path, header: FeatureHeader, check: UnitCheck) -> Iterator[Finding]:
        records = []
        for path in layout.records(folder):
            unit = int(path.stem)
            record = journal.read_record(folder, unit)
            if record is None and unit < header.units and not path.stat().st_size:
                # A record cut short by a loss of power counts as absent: its unit is made again.
                where = f"{layout.FEATURES}/{header.name}/{layout.UNITS}/{path.name}"
                yield Finding(kind="incomplete", where=where, problem="the record is cut short")
            elif record is None or unit >= header.units:
                yield check.damaged(unit, f"{layout.UNITS}/{path.name}", "the record cannot be used")
            else:
                records.append(record)
        yield from self._all(header, check, records)
        yield Finding(
            kind="incomplete",
            where=f"{layout.FEATURES}/{header.name}",
            problem=f"{len(records)} of {header.units} units are done: {make_again(self.store.path, header)}",
            feature=header.name,
        )

    def _all(
        self, header: FeatureHeader, check: UnitCheck, records: Iterable[UnitRecord]
    ) -> Iterator[Finding]:
        """Units by several threads; what they find comes in the order of the units."""
        with ThreadPoolExecutor(self._workers, "verify") as pool:
            for done, result in enumerate(_in_order(pool, check, records, 2 * self._workers), 1):
                self.units += 1
                self.total.count(result)
                yield from result.findings
                self._on_progress(header.name, done, header.units)

    def _id(self, table: Table, row: int) -> str:
        found: str = self._ids[table][row].as_py()
        return found

    @cached_property
    def _ids(self) -> dict[str, pa.ChunkedArray[pa.StringScalar]]:
        return {"images": self.store.images(["id"])["id"], "texts": self.store.texts(["id"])["id"]}


def _in_order(
    pool: ThreadPoolExecutor, check: UnitCheck, records: Iterable[UnitRecord], ahead: int
) -> Iterator[UnitResult]:
    """Results in order, with at most `ahead` units under way."""
    waiting: deque[Future[UnitResult]] = deque()
    try:
        for record in records:
            waiting.append(pool.submit(check, record))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()

"""The verb `balance`: captions sub-sampled so that frequent metadata entries come about as often as a cap.

After MetaCLIP (Xu et al., ICLR 2024, section 3 and algorithm 1): a row is matched with the entries in its
text; an entry with `count` rows keeps each of them with probability `cap / max(count, cap)`, and a row stays
where any of its entries keeps it. Rows without an entry go.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedstore.curate.algebra import rows_told, seed_bits
from embedstore.curate.matching import Matcher, read_entries
from embedstore.curate.operands import opened, refuse_empty, refuse_taken
from embedstore.errors import UsageError
from embedstore.store import choose_rows, create_subset, layout, tables
from embedstore.store.selection import equal
from embedstore.stream.choice import mixed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from os import PathLike

    from embedstore.documents import Table
    from embedstore.shapes import FloatArray, IntArray
    from embedstore.store import Store, Subset
    from embedstore.store.choosing import ChosenRows
    from embedstore.store.selection import Bools

CAP = 20_000
BLOCK = 65536
_DRAWN = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Balanced:
    """A balanced subset. counts, kept `(e,)`: rows of each entry before, and of the subset's rows."""

    subset: Subset
    entries: tuple[str, ...]
    counts: IntArray
    kept: IntArray
    matched: int
    unmatched: int

    def ends(self, most: int) -> tuple[IntArray, IntArray]:
        """The most frequent entries, and the rarest of those that are matched and not among them."""
        order = np.lexsort((np.arange(len(self.counts)), -self.counts))
        order = order[self.counts[order] > 0]
        return order[:most], order[most:][-most:]


def balance_rows(
    store: Store | str | PathLike[str],
    *,
    name: str,
    entries: Sequence[str] | str | PathLike[str] | None = None,
    cap: int = CAP,
    seed: int = 0,
    case: bool = False,
    table: str = "images",
    role: str = "caption",
    language: str = "en",
    rows: str | None = None,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Balanced:
    """Sub-sample rows by the entries in their texts.

    `entries`: a list, or a file (a line each, or a JSON list); none: the store's class names. An image has
    the entries of all its texts of this role and language ('all': any, of roles any but negative); with
    `table="texts"` every text is for itself. A draw depends on the seed, the row and the entry's words only:
    neither blocks nor other rows and entries change it. The concept of a kept row is the rarest entry that
    kept it, its score the probability with which it stays. Memory: about 50 bytes for each match of a row.

    `UsageError` where nothing matches, `MissingExtraError` without the extra `curate`.
    """
    if table not in ("images", "texts"):
        raise UsageError("unknown table", where="--table", found=table, allowed="images, texts")
    if cap < 1:
        raise UsageError("an entry keeps one row at least", where="--cap", found=cap)
    kind: Table = "texts" if table == "texts" else "images"
    here = opened(store)
    refuse_taken(here, name, overwrite=overwrite)
    if kind == "images" and not here.plan.images:
        raise UsageError("the store has no images", where=here.place, todo="balance its texts: --table texts")
    matcher = Matcher(_entries(here, entries), case=case)
    chosen = None if rows is None else choose_rows(here, rows)
    row, entry, considered = _matches(
        here, matcher, kind, role=role, language=language, chosen=chosen, on_progress=on_progress
    )
    refuse_empty(row, f"none of {len(matcher)} entries is in {considered} {kind}")
    counts = np.bincount(entry, minlength=len(matcher))
    chance = cap / np.maximum(counts, cap)
    fired = _fired(matcher, row, entry, chance, seed)
    first = np.flatnonzero(np.diff(row, prepend=-1))
    stays = np.logical_or.reduceat(fired, first)
    refuse_empty(row[first][stays], f"no entry kept any of {len(first)} rows with this seed")
    missed = np.multiply.reduceat(1 - chance[entry], first)
    subset = create_subset(
        here,
        name,
        {
            "row": row[first][stays],
            "concept": pa.array(matcher.entries).take(pa.array(_rarest(row, entry, fired, counts))),
            "score": 1 - missed[stays],
        },
        table=kind,
        verb="balance",
        settings={
            "entries": len(matcher),
            "entries_sha256": hashlib.sha256("\n".join(matcher.keys).encode()).hexdigest(),
            "cap": cap,
            "seed": seed,
            "case": case,
            "role": role,
            "language": language,
            "rows": None if rows is None else rows_told(here, rows),
        },
        counts={
            "considered": considered,
            "matched": len(first),
            "unmatched": considered - len(first),
            "entries_matched": int((counts > 0).sum()),
            "entries_above_the_cap": int((counts > cap).sum()),
            "entries_left_out": matcher.left_out,
        },
        overwrite=overwrite,
    )
    of_kept = np.repeat(stays, np.diff(np.append(first, len(row))))
    return Balanced(
        subset=subset,
        entries=matcher.entries,
        counts=counts,
        kept=np.bincount(entry[of_kept], minlength=len(matcher)),
        matched=len(first),
        unmatched=considered - len(first),
    )


def _entries(store: Store, given: Sequence[str] | str | PathLike[str] | None) -> list[str]:
    if given is None:
        labels = store.images(["label"])["label"].drop_null().unique().to_pylist()
        found = [*store.plan.classes] or sorted(labels)
        if not found:
            raise UsageError("the store has no class names", where=store.place, todo="give --entries FILE")
        return found
    return [*given] if isinstance(given, (list, tuple)) else read_entries(given)  # type: ignore[arg-type]  # a path


def _matches(
    store: Store,
    matcher: Matcher,
    table: Table,
    *,
    role: str,
    language: str,
    chosen: ChosenRows | None,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[IntArray, IntArray, int]:
    """Which row `(k,)` has which entry `(k,)`, each pair once, ascending; and how many rows had texts."""
    seen = np.zeros(store.plan.images if table == "images" else store.plan.texts, dtype=bool)
    images, texts = np.ones(store.plan.images + 1, dtype=bool), None
    if chosen is not None:
        images[:] = False
        images[chosen.images(store)] = True
        texts = chosen.texts(store)
    keys, done = [np.empty(0, np.int64)], 0
    for first, lines in _text_blocks(store):
        owner = lines["image"].fill_null(-1).to_numpy()
        good = _meant(lines, role, language)
        # A text without an image takes the last place: there unless only some images are chosen.
        good &= texts[first : first + len(lines)] if texts is not None else images[owner]
        good &= (owner >= 0) | (table == "texts")
        number = np.flatnonzero(good)
        row = owner[number] if table == "images" else number + first
        seen[row] = True
        place, entry = matcher.match(lines["text"].take(pa.array(number)).to_pylist())
        keys.append(np.unique(row[place] * len(matcher) + entry))
        done += len(lines)
        if on_progress is not None:
            on_progress(done, store.plan.texts)
    together = np.concatenate(keys)
    keys.clear()
    if table == "images":  # texts of one image may stand in several blocks
        together = np.unique(together)
    row, entry = np.divmod(together, len(matcher))
    return row, entry, int(seen.sum())


def _meant(lines: pa.Table, role: str, language: str) -> Bools:
    good: Bools = ~equal(lines["role"], "negative") if role == "all" else equal(lines["role"], role)
    return good if language == "all" else good & equal(lines["language"], language)


def _text_blocks(store: Store) -> Iterator[tuple[int, pa.Table]]:
    """The texts in order, some at a time with the row of the first, their images as rows of this store."""
    first, images = 0, 0
    for part in store.parts:
        for path in layout.parts(part.path, "texts"):
            whole = tables.read_file(path, "texts", ["image", "text", "language", "role"])
            for at in range(0, len(whole), BLOCK):
                lines = whole.slice(at, BLOCK)
                moved = pc.add(lines["image"], pa.scalar(images, pa.int64()))
                yield first, lines.set_column(0, "image", moved)
                first += len(lines)
        images += part.plan.images


def _fired(matcher: Matcher, row: IntArray, entry: IntArray, chance: FloatArray, seed: int) -> Bools:
    """Whether a pair's number in [0, 1) is below the chance of its entry `(k,)`.

    The number is of the seed, the row and the entry's words alone.
    """
    words = [hashlib.sha256(key.encode()).digest()[:8] for key in matcher.keys]
    named = mixed(mixed(np.array([seed_bits(seed)], np.uint64)) ^ np.frombuffer(b"".join(words), "<u8"))
    found = np.empty(len(row), dtype=bool)
    for low in range(0, len(row), _DRAWN):
        some = slice(low, low + _DRAWN)
        bits = mixed(mixed(named[entry[some]] ^ row[some].astype(np.uint64)))
        found[some] = (bits >> np.uint64(11)) * 2.0**-53 < chance[entry[some]]
    return found


def _rarest(row: IntArray, entry: IntArray, fired: Bools, counts: IntArray) -> IntArray:
    """Of every row that entries kept, the entry with the fewest rows, of equal ones the first."""
    row, entry = row[fired], entry[fired]
    order = np.lexsort((entry, counts[entry], row))
    found: IntArray = entry[order[np.flatnonzero(np.diff(row[order], prepend=-1))]]
    return found

"""Samples gathered one by one into columns, their texts cleaned: what is no text is left out and counted.

For data that its user cannot put right by hand (tars, data sets of the web): one caption with a NUL byte
among millions must not stop a run. Tables, which a user can edit, refuse it instead.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from embedstore.sources.reading.rows import MOST_BYTES, TEXT
from embedstore.sources.samples.grouping import Codes, Samples

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Sequence

_BATCH = 65_536


def clean(value: object, dropped: Counter[str], what: str = "captions") -> str | None:
    """A trimmed text, none where `value` holds none; what is left out is counted in `dropped`.

    Whole numbers are texts in everything but captions (a label 3 is the label "3").
    """
    if value is None:
        return None
    if isinstance(value, bytes):
        if len(value) > MOST_BYTES:
            dropped[f"{what} that are too long"] += 1
            return None
        try:
            value = value.decode("utf-8-sig")
        except UnicodeDecodeError:
            dropped[f"{what} that are not UTF-8"] += 1
            return None
    if isinstance(value, int) and not isinstance(value, bool) and what != "captions":
        value = str(value)
    if not isinstance(value, str):
        dropped[f"{what} that are no text"] += 1
        return None
    return _clean_text(value, dropped, what)


def _clean_text(value: str, dropped: Counter[str], what: str) -> str | None:
    text = value.strip()
    reason = None
    if not text:
        if what == "captions":
            dropped["empty captions"] += 1
        return None
    if "\0" in text:
        reason = "with a NUL byte"
    elif len(text) > MOST_BYTES:
        reason = "that are too long"
    else:
        try:
            text.encode()
        except UnicodeEncodeError:
            reason = "that are not UTF-8"
    if reason is None:
        return text
    dropped[f"{what} {reason}"] += 1
    return None


@dataclass
class _Texts:
    """A growing column of texts: Arrow in pieces, so that no list of many Python texts stays."""

    pending: list[str] = field(default_factory=list)
    chunks: list[Any] = field(default_factory=list)

    def add(self, text: str) -> None:
        self.pending.append(text)
        if len(self.pending) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        self.chunks.append(pa.array(self.pending, TEXT))
        self.pending.clear()

    def done(self) -> Any:
        self.flush()
        whole = pa.chunked_array(self.chunks, TEXT).combine_chunks()
        self.chunks.clear()  # else every text would be kept twice
        return whole


@dataclass
class _Coded:
    """A growing column of few values."""

    codes: array[int] = field(default_factory=lambda: array("i"))
    values: dict[str, int] = field(default_factory=dict)

    def add(self, value: str | None) -> None:
        self.codes.append(-1 if value is None else self.values.setdefault(value, len(self.values)))

    def done(self) -> Codes:
        return Codes(np.frombuffer(self.codes, np.int32), tuple(self.values))


class Gathered:
    """Growing columns of samples; `done` gives them as `Samples`."""

    def __init__(self) -> None:
        self._ids, self._texts = _Texts(), _Texts()
        self._label, self._split, self._language, self._role = _Coded(), _Coded(), _Coded(), _Coded()
        self._counts = array("q", [0])

    def __len__(self) -> int:
        return len(self._counts) - 1

    def add(
        self,
        id: str,  # noqa: A002 - the name that a sample gives it
        *,
        texts: Sequence[str] = (),
        language: str = "en",
        label: str | None = None,
        split: str | None = None,
    ) -> None:
        """One sample, its texts cleaned."""
        self._ids.add(id)
        self._label.add(label)
        self._split.add(split)
        for text in texts:
            self._texts.add(text)
            self._language.add(language)
        self._counts.append(self._counts[-1] + len(texts))

    def done(self) -> Samples:
        """All that was gathered; asked for once."""
        none = Codes(np.full(int(self._counts[-1]), -1, np.int8), ())
        return Samples(
            ids=self._ids.done(),
            images=None,
            first_row=np.zeros(0, np.int64),
            label=self._label.done(),
            split=self._split.done(),
            texts=self._texts.done(),
            offsets=np.frombuffer(self._counts, np.int64),
            language=self._language.done(),
            role=none,
            category=none,
            empty_captions=0,
        )

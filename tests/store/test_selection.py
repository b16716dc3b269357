"""Splits, roles, languages, and what of a feature can be used."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from embedstore.errors import UsageError
from embedstore.store import open_store
from embedstore.store.selection import equal, readable, split_rows, texts_with
from embedstore.stream.pairs import PairStream
from embedstore.testing.stores import write_feature, write_random_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Twenty pictures with two captions; in "gaps" the captions of picture 4 and the first of 7 are empty."""
    path = tmp_path_factory.mktemp("selection") / "store"
    words = write_random_store(path, images=20, captions=2)["words"]
    lengths = words.lengths().copy()
    lengths[[8, 9, 14]] = 0
    packed = words.text_tokens(slice(None))
    kept = np.repeat(lengths > 0, packed.lengths)
    header = words.header.model_copy(update={"name": "gaps"})
    arrays = {
        "tokens": packed.tokens[kept],
        "lengths": lengths,
        "pooled": words.read("pooled", 0, 40),
    }
    write_feature(path, header, arrays)
    return open_store(path)


def test_rows_of_a_split_ascend(store):
    assert split_rows(store, None).tolist() == list(range(20))
    assert split_rows(store, "test").tolist() == [9, 19]
    with pytest.raises(UsageError, match=r"no split 'dev'(.|\n)*train 16, val 2, test 2"):
        split_rows(store, "dev")


def test_texts_of_a_role_and_language(store):
    assert texts_with(store, role="caption", language="en").all()
    for role, language in (("long", "en"), ("caption", "de")):
        with pytest.raises(UsageError, match=r"no text has the role(.|\n)*roles caption 40; languages en 40"):
            texts_with(store, role=role, language=language)


def test_null_equals_nothing():
    column = pa.chunked_array([["a", None], ["b", "a"]])
    assert equal(column, "a").tolist() == [True, False, False, True]


def test_texts_without_a_token_cannot_be_used(store):
    assert readable(store["vision"]).all()
    assert np.flatnonzero(~readable(store["gaps"])).tolist() == [8, 9, 14]


def test_a_fit_never_meets_a_text_without_a_token(store):
    stream = PairStream(store, image="vision", text="gaps", rows=np.arange(20), batch_size=8)
    assert stream.skipped == {"image quarantined": 0, "no caption": 1}
    for epoch in range(6):
        with stream.epoch(epoch) as batches:
            for batch in batches:
                assert not {8, 9, 14} & set(batch.text.rows.tolist())
                assert int(batch.text.offsets.diff().min()) > 0

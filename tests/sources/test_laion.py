"""Captions without pictures in Parquet files written by pyarrow."""

from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedstore.encode.plan import plan_source
from embedstore.errors import SourceError, UnknownNameError
from embedstore.sources import laion, open_source
from embedstore.sources.laion import LaionSource
from embedstore.testing.sources import SourceContract


def rows(first, count):
    numbers = range(first, first + count)
    return pa.table(
        {
            "SAMPLE_ID": pa.array(numbers, pa.float64()),
            "URL": [f"https://example.org/{i}.jpg" for i in numbers],
            "TEXT": [f" caption {i} é " for i in numbers],
            "LANGUAGE": [["en", "DE", None, "nolang!"][i % 4] for i in numbers],
            "HEIGHT": [240] * count,
            "similarity": np.linspace(0, 1, count),
        }
    )


@pytest.fixture
def written(tmp_path):
    for k in range(3):
        pq.write_table(rows(100 * k, 40), tmp_path / f"part-{k:05d}.parquet", row_group_size=16)
    return tmp_path


def facts(source):
    return [
        (source[i].id, source[i].captions[0].text, source[i].captions[0].language) for i in range(len(source))
    ]


class TestContract(SourceContract):
    @pytest.fixture
    def source(self, written):
        return open_source(f"laion:{written}/part-{{00000..00002}}.parquet?split=train")


def test_captions_are_a_pool_of_texts(written):
    source = open_source(f"laion:{written}")
    found = facts(source)
    assert len(found) == 120
    assert found[0] == ("part-00000/0", "caption 0 é", "en")
    assert found[17] == ("part-00000/17", "caption 17 é", "de")
    assert found[82] == ("part-00002/2", "caption 202 é", "en")
    assert source.dropped == {"languages that are no tag, e.g. en": 30}
    assert source.shuffled
    assert source[3].picture is None
    plan = plan_source(source).plan
    assert (plan.images, plan.texts, plan.languages) == (0, 120, {"de": 30, "en": 90})
    assert facts(pickle.loads(pickle.dumps(source))) == found  # noqa: S301 - our own


def test_ids_may_be_a_column_and_the_url_too(written):
    assert facts(open_source(f"laion:{written}", columns={"id": "SAMPLE_ID"}))[41][0] == "101"
    source = open_source(f"laion:{written}", columns={"id": "URL", "caption": "TEXT", "language": ""})
    assert facts(source)[1] == ("https://example.org/1.jpg", "caption 1 é", "en")
    assert source.dropped == {}


def test_a_pool_larger_than_memory_keeps_its_order_and_little_else(written, monkeypatch):
    whole = facts(LaionSource(written))
    monkeypatch.setattr(laion, "KEEP_BYTES", 3_000)
    source = LaionSource(written)
    assert not source.shuffled
    read = []
    load = laion._Groups._read
    monkeypatch.setattr(laion._Groups, "_read", lambda *a: read.append(a[1]) or load(*a))
    assert facts(source) == whole
    assert read == list(range(9))
    assert sum(kept.nbytes for kept in source._groups._kept.values()) <= 3_000


def test_texts_that_are_none(tmp_path):
    bad = pa.Array.from_buffers(
        pa.string(),
        5,
        [None, pa.py_buffer(np.array([0, 1, 3, 4, 5, 7], np.int32)), pa.py_buffer(b"ab\xffc\0 \n")],
    )
    pq.write_table(pa.table({"caption": bad}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"caption": ["x", None, " "]}), tmp_path / "b.parquet")
    source = LaionSource(tmp_path)
    assert [f[:2] for f in facts(source)] == [("a/0", "a"), ("a/2", "c"), ("b/0", "x")]
    assert source.dropped == {
        "captions that are not UTF-8": 1,
        "captions with a NUL byte": 1,
        "empty captions": 2,
    }


def test_a_huge_text_is_left_out(tmp_path, monkeypatch):
    for module in ("gathering", "text_columns"):
        monkeypatch.setattr(f"embedstore.sources.samples.{module}.MOST_BYTES", 100)
    pq.write_table(pa.table({"caption": ["x" * 101, "y"]}), tmp_path / "a.parquet")
    source = LaionSource(tmp_path)
    assert facts(source) == [("a/1", "y", "en")]
    assert source.dropped == {"captions that are too long": 1}


def test_ids_that_stand_twice_are_refused(tmp_path):
    pq.write_table(pa.table({"caption": ["x", "y"], "key": ["1", "1"]}), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match="two samples share an id"):
        plan_source(LaionSource(tmp_path, columns={"id": "key"}))


def test_files_of_one_name(tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        pq.write_table(pa.table({"caption": ["x"]}), tmp_path / folder / "p.parquet")
    assert [f[0] for f in facts(LaionSource(f"{tmp_path}/*/p.parquet"))] == ["0-p/0", "1-p/0"]


def one(tmp_path, table, **options):
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    return LaionSource(tmp_path, **options)


@pytest.mark.parametrize(
    ("table", "columns", "problem"),
    [
        ({"words": ["x"]}, {}, "no column of captions"),
        ({"caption": [1]}, {}, "captions that are no texts"),
        ({"caption": [["x"]]}, {}, "captions that are no texts"),
        ({"caption": ["x"], "n": [1.5]}, {"id": "n"}, "ids that are no whole numbers"),
        ({"caption": ["x"], "n": [None]}, {"id": "n"}, "without a value in column 'n'"),
        ({"caption": ["x"]}, {"id": "uid"}, "no column 'uid'"),
        ({"caption": ["", None]}, {}, "no captions in these files"),
        ({"caption": pa.array([], pa.string())}, {}, "no captions in these files"),
    ],
)
def test_tables_that_are_refused(tmp_path, table, columns, problem):
    with pytest.raises(SourceError, match=problem):
        one(tmp_path, table, columns=columns)


def test_options_that_are_unknown(tmp_path):
    with pytest.raises(UnknownNameError, match="unknown column 'image'"):
        one(tmp_path, {"caption": ["x"]}, columns={"image": "URL"})


def test_a_cut_file(written):
    path = written / "part-00001.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SourceError, match=r"part-00001\.parquet"):
        LaionSource(written)

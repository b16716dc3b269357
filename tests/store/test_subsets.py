"""Subsets: what is written is read back, what is half written or does not fit is refused in words."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedstore.documents import SubsetParent
from embedstore.errors import CorruptStoreError, FormatVersionError, MismatchError, StoreError, UsageError
from embedstore.store import (
    choose_rows,
    compact_store,
    create_subset,
    open_store,
    remove_subset,
    store_info,
    verify_store,
)
from embedstore.store.failpoints import listening
from embedstore.testing.stores import write_random_store


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_random_store(tmp_path_factory.mktemp("subsets") / "store", images=30, captions=2, ids="a")


@pytest.fixture
def store(made, tmp_path):
    return open_store(shutil.copytree(made.path, tmp_path / "store"))


def test_rows_in_any_order_come_back_ascending_with_their_reasons(store):
    parent = SubsetParent(kind="feature", name="vision", sha256="0" * 64)
    made = create_subset(
        store,
        "rare",
        {"row": [7, 2, 20], "score": [0.7, 0.2, 0.5], "concept": ["b", None, "a"], "rank": [1, None, 2]},
        dropped={"id": ["a000003"], "twin": ["a000007"], "score": [0.99], "reason": ["near duplicate"]},
        verb="collect",
        settings={"per_concept": 2, "floors": (0.1, None)},
        parents=[parent],
        counts={"considered": 30},
    )
    again = open_store(store.path).subset("rare")
    assert made.card == again.card
    assert again.rows.tolist() == [2, 7, 20]
    assert again.read(["id", "score"]).to_pydict() == {
        "id": ["a000002", "a000007", "a000020"],
        "score": [0.2, 0.7, 0.5],
    }
    assert again.read()["concept"].to_pylist() == [None, "b", "a"]
    [left] = again.read_dropped().to_pylist()
    assert (left["row"], left["twin"], left["reason"]) == (3, "a000007", "near duplicate")
    card = again.card
    assert (card.kept, card.dropped, card.verb, card.parents) == (3, 1, "collect", (parent,))
    assert card.settings == {"per_concept": 2, "floors": (0.1, None)}
    assert card.columns == ("reason", "concept", "rank", "score", "twin")
    assert card.store_fingerprint == store.fingerprint
    assert len(again) == 3
    assert store.subsets() == ("rare",)
    assert [c.name for c in store_info(store.path).subsets] == ["rare"]
    report = verify_store(store.path)
    assert report.sound
    assert not report.findings
    assert report.subsets == 1


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 59), st.none() | st.floats(-2, 2), st.none() | st.text(max_size=5))))
def test_any_rows_round_trip(store, lines):
    lines = list({row: (row, score, concept) for row, score, concept in lines}.values())
    given_lines = pa.table(
        {
            "row": pa.array([r for r, _, _ in lines], pa.int32()),
            "score": pa.array([s for _, s, _ in lines], pa.float64()),
            "concept": pa.array([c for _, _, c in lines], pa.large_string()),
        }
    )
    found = create_subset(store, "any", given_lines, table="texts", overwrite=True)
    assert found.read(["row", "score", "concept"]).to_pylist() == [
        {"row": r, "score": s, "concept": c} for r, s, c in sorted(lines, key=lambda line: line[0])
    ]
    ids = store.texts(["id"])["id"].to_pylist()
    assert found.read(["id"])["id"].to_pylist() == [ids[r] for r in found.rows]


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        ({"row": [1, 5, 1]}, r"1 rows come more than once\n  found: 'a000001'"),
        ({"id": ["a000001", "a000001"]}, "more than once"),
        ({"row": [30]}, r"rows outside the table 'images'\n  found: 30 to 30\n  allowed: 0 to 29"),
        ({"row": [-1]}, "rows outside"),
        ({"id": ["nobody"]}, r"no such id\n  found: 'nobody'"),
        ({"row": [1], "id": ["a000002"]}, "an id is not that of its row\n  found: 'a000002'"),
        ({"row": [1, 2], "score": [0.1]}, "columns of different lengths"),
        ({"row": [1], "colour": ["red"]}, "not the columns of a subset\n  found: row, colour"),
        ({"score": [0.1]}, "not the columns of a subset"),
        ({"row": [1.5]}, "the column 'row' is not int64"),
        ({"row": [1], "score": [float("nan")]}, "score: a column holds what it may not"),
        ({"row": [None, 1]}, "row: a column holds what it may not"),
        ({"row": [1], "concept": [3.5j]}, "the column 'concept' is not string"),
    ],
)
def test_bad_rows_are_refused_and_nothing_is_there(store, kept, words):
    with pytest.raises(UsageError, match=words):
        create_subset(store, "bad", kept)
    assert store.subsets() == ()


def test_a_row_is_not_both_kept_and_dropped(store):
    with pytest.raises(UsageError, match=r"1 rows are both kept and dropped\n  found: 'a000002'"):
        create_subset(store, "bad", {"row": [1, 2]}, dropped={"row": [2, 3]})


def test_names(store):
    create_subset(store, "rare", {"row": [1]}, dropped={"row": [2]})
    with pytest.raises(UsageError, match="there is a subset 'rare' already"):
        create_subset(store, "rare", {"row": [3]})
    create_subset(store, "rare", {"row": [3]}, overwrite=True)
    assert store.subset("rare").rows.tolist() == [3]
    assert len(store.subset("rare").read_dropped()) == 0
    assert not (store.path / "subsets" / "rare" / "dropped.parquet").exists()
    with pytest.raises(StoreError, match=r"no subset 'rear'\n  allowed: rare\n  .*did you mean 'rare'"):
        store.subset("rear")
    for name in ("../evil", "", ".hidden", "a/b", "x" * 201):
        with pytest.raises(StoreError, match="bad subset name"):
            create_subset(store, name, {"row": [1]})
    remove_subset(store, "rare")
    assert store.subsets() == ()
    with pytest.raises(StoreError, match="no subset 'rare'"):
        remove_subset(store, "rare")


def test_no_row_at_all_is_a_subset_that_cannot_be_chosen(store):
    assert create_subset(store, "none", {"row": []}).rows.tolist() == []
    assert verify_store(store.path).sound
    with pytest.raises(UsageError, match="this chooses no row"):
        choose_rows(store, "none")


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("overwrite", [False, True])
def test_killed_anywhere_the_old_one_the_new_one_or_none_is_there(made, tmp_path, overwrite):
    """Never a card with another's rows; the same call again makes it."""

    def write(path):
        create_subset(path, "x", {"row": [4, 5]}, dropped={"row": [6]}, overwrite=overwrite)

    def begin(name):
        path = shutil.copytree(made.path, tmp_path / name)
        if overwrite:
            create_subset(path, "x", {"row": [1, 2, 3]})
        return path

    names: list[str] = []
    path = begin("whole")
    with listening(names.append):
        write(path)
    assert len(names) > 15
    for stop in range(len(names)):
        path = begin(f"killed-{stop}")
        left = iter(range(len(names)))

        def hook(_name, left=left, stop=stop):
            if next(left) == stop:
                raise _Killed

        with pytest.raises(_Killed), listening(hook):
            write(path)
        store = open_store(path)
        if "x" in store.subsets():
            assert store.subset("x").rows.tolist() in ([1, 2, 3] if overwrite else [], [4, 5])
        assert not verify_store(path).corrupt
        create_subset(path, "x", {"row": [4, 5]}, dropped={"row": [6]}, overwrite=True)
        assert open_store(path).subset("x").rows.tolist() == [4, 5]
        assert open_store(path).subset("x").read_dropped(["row"])["row"].to_pylist() == [6]


def _folder(store):
    return store.path / "subsets" / "rare"


def _flip(store):
    path = _folder(store) / "rows.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _other_rows(store):
    create_subset(store, "other", {"row": [1, 2, 4]})
    shutil.copy(_folder(store).parent / "other" / "rows.parquet", _folder(store) / "rows.parquet")
    remove_subset(store, "other")


def _cut(store):
    with (_folder(store) / "rows.parquet").open("r+b") as file:
        file.truncate(100)


@pytest.mark.parametrize("harm", [_flip, _other_rows, _cut, lambda s: (_folder(s) / "rows.parquet").unlink()])
def test_files_that_are_not_the_cards_are_never_read(store, harm):
    subset = create_subset(store, "rare", {"row": [1, 2, 3]})
    harm(store)
    with pytest.raises(CorruptStoreError, match=r"subsets/rare/rows\.parquet: "):
        _ = subset.rows
    [finding] = verify_store(store.path).corrupt
    assert finding.where == "subsets/rare"


def _edit(store, **fields):
    path = _folder(store) / "subset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_card_of_a_later_format_or_of_another_name_is_refused(store):
    create_subset(store, "rare", {"row": [1]})
    _edit(store, format_version=9)
    with pytest.raises(FormatVersionError, match="newer version"):
        store.subset("rare")
    _edit(store, format_version=1, name="common")
    with pytest.raises(CorruptStoreError, match="the card is of another subset"):
        store.subset("rare")


def _forge(store, ids, rows):
    """A file of one's own, and a card that fits it."""
    import google_crc32c

    path = _folder(store) / "rows.parquet"
    schema = pq.read_schema(path)
    nothing = {n: [None] * len(rows) for n in schema.names[2:]}
    pq.write_table(pa.table({"row": rows, "id": ids, **nothing}, schema=schema), path)
    data = path.read_bytes()
    _edit(store, kept=len(rows), rows_file={"nbytes": len(data), "crc32c": google_crc32c.value(data)})


def test_forged_rows_are_found(store):
    create_subset(store, "rare", {"row": [1, 2]})
    _forge(store, ["a000001", "a000005"], [1, 2])
    [finding] = verify_store(store.path).corrupt
    assert finding.problem == "rows.parquet: row 2 has not the id 'a000005'"
    for rows in ([2, 1], [1, 1]):
        _forge(store, ["a000001", "a000002"], rows)
        with pytest.raises(CorruptStoreError, match="not ascending"):
            _ = store.subset("rare").rows
    _forge(store, ["a000001", "x"], [1, 10**9])
    with pytest.raises(CorruptStoreError, match="rows outside the table"):
        _ = store.subset("rare").rows
    assert "outside the table" in verify_store(store.path).corrupt[0].problem


def test_what_a_stopped_writer_left_is_no_subset(store):
    create_subset(store, "rare", {"row": [1]})
    (_folder(store) / "subset.json").unlink()
    assert store.subsets() == ()
    [finding] = verify_store(store.path).findings
    assert (finding.kind, finding.where) == ("incomplete", "subsets/rare")


@pytest.fixture
def pair(tmp_path):
    return [
        write_random_store(tmp_path / name, images=n, captions=2, ids=name, seed=n, card_seed=3)
        for name, n in (("a", 20), ("b", 10))
    ]


def test_in_joined_stores_rows_move_and_ids_stay(pair):
    a, b = pair
    create_subset(a, "one", {"row": [1, 5]}, table="texts")
    create_subset(b, "one", {"row": [0, 3]}, table="texts")
    create_subset(b, "mine", {"row": [9]})
    ab, ba = open_store(f"{a.path}+{b.path}"), open_store(f"{b.path}+{a.path}")
    assert ab.subsets() == ("mine", "one")
    assert ab.subset("one").rows.tolist() == [1, 5, 40, 43]
    assert ba.subset("one").rows.tolist() == [0, 3, 21, 25]
    assert len(ab.subset("one")) == 4
    assert ab.subset("mine").rows.tolist() == [29]
    for joined in (ab, ba):
        ids = joined.texts(["id"])["id"].to_pylist()
        found = joined.subset("one")
        assert found.read(["id"])["id"].to_pylist() == [ids[r] for r in found.rows]


def test_a_subset_of_several_stores_lies_in_the_first_and_is_found_by_ids(pair):
    a, b = pair
    ab, ba = open_store(f"{a.path}+{b.path}"), open_store(f"{b.path}+{a.path}")
    create_subset(ab, "both", {"row": [2, 21], "score": [1.0, 2.0]}, dropped={"row": [29]})
    assert a.subsets() == ("both",)
    assert b.subsets() == ()
    assert ab.subset("both").rows.tolist() == [2, 21]
    found = ba.subset("both")
    assert found.read(["row", "id", "score"]).to_pylist() == [
        {"row": 1, "id": "b000001", "score": 2.0},
        {"row": 12, "id": "a000002", "score": 1.0},
    ]
    assert found.read_dropped(["row"])["row"].to_pylist() == [9]
    with pytest.raises(UsageError, match=r"of other rows: 1 of 2 ids are not in this store[^$]*2 stores"):
        _ = a.subset("both").rows
    assert verify_store(f"{a.path}+{b.path}").sound


def test_subsets_of_one_name_that_mean_different_things_are_not_joined(pair):
    a, b = pair
    create_subset(a, "x", {"row": [1]})
    create_subset(b, "x", {"row": [1]}, table="texts")
    with pytest.raises(MismatchError, match="the subsets 'x' of these stores cannot be read as one"):
        open_store(f"{a.path}+{b.path}").subset("x")


def test_choose_rows_by_name_or_by_a_file_of_ids(store, tmp_path):
    create_subset(store, "rare", {"row": [7, 2]})
    create_subset(store, "words", {"row": [4, 5, 9]}, table="texts")
    images = choose_rows(store, "rare")
    assert images.images(store).tolist() == [2, 7]
    assert images.texts(store) is None
    texts = choose_rows(store, "words")
    assert texts.images(store).tolist() == [2, 4]
    assert np.flatnonzero(texts.texts(store)).tolist() == [4, 5, 9]
    file = tmp_path / "ids.txt"
    file.write_text("a000007\na000002\na000007\n")
    found = choose_rows(store, str(file))
    assert (found.name, found.table, found.rows.tolist()) == ("ids.txt", "images", [2, 7])
    # A subset's own file is a file of ids as any other.
    again = choose_rows(store, str(store.path / "subsets" / "words" / "rows.parquet"))
    assert (again.table, again.rows.tolist()) == ("texts", [4, 5, 9])
    file.write_text("a000007\na000002#1\n")
    with pytest.raises(UsageError, match=r"not all of images, nor all of texts\n  found: 1 of images, 1 of"):
        choose_rows(store, str(file))
    file.write_text("a000007\nnobody\n")
    with pytest.raises(UsageError, match=r"ids are not in the store\n  found: 'nobody'"):
        choose_rows(store, str(file))
    with pytest.raises(UsageError, match=r"no subset and no file of ids is named 'wrods'[^$]*mean 'words'"):
        choose_rows(store, "wrods")


def test_compact_drops_a_subset(store, tmp_path):
    create_subset(store, "gone", {"row": [0, 3]})
    create_subset(store, "texts", {"row": [0, 1, 5]}, table="texts")
    report = compact_store(store.path, tmp_path / "new", drop="gone")
    assert (report.dropped_images, report.dropped_texts) == (2, 4)
    new = open_store(tmp_path / "new")
    assert "a000003" not in new.images(["id"])["id"].to_pylist()
    assert new.subsets() == ()
    assert compact_store(store.path, tmp_path / "fewer", drop="texts").dropped_texts == 3

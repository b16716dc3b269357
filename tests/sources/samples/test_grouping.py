"""Rows to samples, against a construction that reads like the rule."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.errors import SourceError, UsageError
from embedstore.sources.reading.rows import TEXT, TEXTS, Rows
from embedstore.sources.samples.grouping import check_language, group_rows


def as_rows(records, *, names=None):
    names = names if names is not None else {k for r in records for k in r}
    columns = {n: pa.array([r.get(n) for r in records], TEXTS if n == "captions" else TEXT) for n in names}
    return Rows(count=len(records), columns=columns, place=lambda row: f"t.csv, line {row + 2}")


def naive(records, names, language):
    """id -> (image, label, split, captions), in the order of first rows."""
    samples = {}
    for number, r in enumerate(records):
        texts = r["captions"] or [] if "captions" in names else [r.get("caption")]
        texts = [t for t in texts if t is not None]
        if "image" not in names and not texts:
            continue
        key = r["id"] if "id" in names else r["image"] if "image" in names else str(number)
        sample = samples.setdefault(
            key, {"image": r.get("image"), "label": None, "split": None, "captions": []}
        )
        for name in ("label", "split"):
            sample[name] = sample[name] or r.get(name)
        for text in texts:
            sample["captions"].append(
                (text, r.get("language") or language, r.get("role") or "caption", r.get("category"))
            )
    return samples


@st.composite
def tables(draw):
    keys = draw(st.sets(st.sampled_from(["id", "image"])))
    text = draw(st.sampled_from(["caption", "captions"]))
    names = keys | {text} | draw(st.sets(st.sampled_from(["label", "split", "language", "role", "category"])))
    word = st.one_of(st.none(), st.sampled_from(["a dog", "ein Hund", "a dog", "犬", "x"]))
    records = []
    for _ in range(draw(st.integers(0, 25))):
        which = draw(st.integers(0, 6))
        record = {
            "id": f"n{which}",
            "image": f"{which}.jpg",
            "caption": draw(word),
            "captions": draw(st.one_of(st.none(), st.lists(word, max_size=3))),
            "label": draw(st.sampled_from([None, f"class {which % 3}"])),
            "split": draw(st.sampled_from([None, ["train", "test"][which % 2]])),
            "language": draw(st.sampled_from([None, "de", "pt-br"])),
            "role": draw(st.sampled_from([None, "long", "negative", "caption"])),
            "category": draw(st.sampled_from([None, "object"])),
        }
        records.append({n: record[n] for n in names})
    return names, records


@settings(deadline=None)
@given(tables(), st.sampled_from(["en", "fr"]))
def test_grouping_equals_the_naive_construction(table, language):
    names, records = table
    samples = group_rows(as_rows(records, names=names), language=language)
    expected = naive(records, names, language)
    assert samples.ids.to_pylist() == list(expected)
    assert len(samples) == len(expected)
    for at, sample in enumerate(expected.values()):
        captions = [(c.text, c.language, c.role, c.category) for c in samples.captions(at)]
        assert captions == sample["captions"]
        assert samples.label[at] == sample["label"]
        assert samples.split[at] == sample["split"]
        if "image" in names:
            assert samples.images[at].as_py() == sample["image"]
    texts = [t for r in records for t in (r["captions"] or [] if "captions" in names else [r["caption"]])]
    assert samples.empty_captions == sum(t is None for t in texts)


@pytest.mark.parametrize("name", ["label", "split"])
def test_rows_of_one_image_that_contradict_each_other(name):
    rows = as_rows(
        [
            {"image": "a", name: None},
            {"image": "a", name: "x"},
            {"image": "b", name: "y"},
            {"image": "a", name: "y"},
        ]
    )
    with pytest.raises(SourceError, match=rf"differ in '{name}'") as caught:
        group_rows(rows)
    assert "t.csv, line 3 and line 5" in str(caught.value)
    assert "x and y" in str(caught.value)


def test_one_id_for_two_pictures_names_both_rows_and_the_way_out():
    rows = as_rows([{"id": "1", "image": "a"}, {"id": "2", "image": "b"}, {"id": "1", "image": "c"}])
    with pytest.raises(SourceError, match="one id stands for two pictures") as caught:
        group_rows(rows)
    assert "line 2 and line 4" in str(caught.value)
    assert "--column id=" in str(caught.value)


def test_ids_that_number_captions_are_not_taken_for_samples():
    rows = as_rows([{"id": "1", "image": "a"}, {"id": "2", "image": "a"}])
    with pytest.raises(SourceError, match="one picture has two ids"):
        group_rows(rows)


@pytest.mark.parametrize("missing", ["id", "image"])
def test_a_row_without_id_or_image(missing):
    rows = as_rows([{"id": "1", "image": "a"}, {"id": "2", "image": "b", missing: None}])
    with pytest.raises(SourceError, match=f"line 3: no {missing} in this row"):
        group_rows(rows)


def test_unknown_roles_and_languages():
    with pytest.raises(SourceError, match="line 3: not a role") as caught:
        group_rows(as_rows([{"caption": "a", "role": "long"}, {"caption": "b", "role": "Title"}]))
    assert "caption, long, negative" in str(caught.value)
    with pytest.raises(SourceError, match="line 2: not a language"):
        group_rows(as_rows([{"caption": "a", "language": "English!"}]))


def test_language_tags():
    assert group_rows(as_rows([{"caption": "a", "language": "PT-BR"}])).captions(0)[0].language == "pt-br"
    assert check_language("DE") == "de"
    for bad in ("", "english language", "e", "en_GB"):
        with pytest.raises(UsageError, match="not a language tag"):
            check_language(bad)


def test_empty_lists_and_empty_texts_in_lists():
    rows = as_rows(
        [{"captions": ["a", None, "b"]}, {"captions": None}, {"captions": []}, {"captions": ["c"]}]
    )
    samples = group_rows(rows)
    assert samples.ids.to_pylist() == ["0", "3"]
    assert [c.text for c in samples.captions(0)] == ["a", "b"]
    assert samples.empty_captions == 1

"""Many files by one word, and the options behind it."""

from __future__ import annotations

import pytest
from braceexpand import braceexpand
from hypothesis import given
from hypothesis import strategies as st

from embedstore.errors import SourceError, UsageError
from embedstore.sources.reading.patterns import expand, expand_braces
from embedstore.sources.wording import split_options


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("a{00..03}.tar", ["a00.tar", "a01.tar", "a02.tar", "a03.tar"]),
        ("{8..10}", ["8", "9", "10"]),
        ("{008..010}", ["008", "009", "010"]),
        ("{a,b}-{1..3..2}", ["a-1", "a-3", "b-1", "b-3"]),
        ("x{a,{b,c}d}y", ["xay", "xbdy", "xcdy"]),
        ("{c..a}", ["c", "b", "a"]),
        ("p{}q{r}", ["p{}q{r}"]),
        ("a{b", ["a{b"]),
        ("plain", ["plain"]),
    ],
)
def test_braces(word, meant):
    assert list(expand_braces(word)) == meant


WORDS = st.recursive(
    st.sampled_from(["a", "bc", "{1..3}", "{07..11}", "{0..6..3}", "{a..c}", "-"]),
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(lambda one: "{" + ",".join(one) + "}"),
        st.lists(inner, min_size=1, max_size=3).map("".join),
    ),
    max_leaves=5,
)


@given(WORDS)
def test_braces_mean_what_they_mean_to_webdataset(word):
    assert list(expand_braces(word)) == list(braceexpand(word))


@pytest.fixture
def shards(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep" / "x").mkdir(parents=True)
    for name in (
        "s-00.tar",
        "s-01.tar",
        "s-02.TAR",
        "t-00.tar.gz",
        "deep/x/u.tar",
        "n.txt",
        ".s-09.tar",
        "v[1].tar",
    ):
        (tmp_path / name).touch()
    return tmp_path


def named(text):
    return [str(file) for file in expand(text, endings=(".tar", ".tar.gz"), what="tar shard")]


def test_patterns_of_files(shards):
    assert named("s-{00..01}.tar") == ["s-00.tar", "s-01.tar"]
    assert named("s-*.tar") == ["s-00.tar", "s-01.tar"]
    assert named("s-0[1].tar::s-00.tar") == ["s-01.tar", "s-00.tar"]
    assert named("{s-00.tar,s-*.tar}") == ["s-00.tar", "s-01.tar"]
    assert named(f"{shards}/deep/*/u.tar") == [f"{shards}/deep/x/u.tar"]
    assert named(".") == ["s-00.tar", "s-01.tar", "s-02.TAR", "t-00.tar.gz", "v[1].tar"]
    assert named("v[1].tar") == ["v[1].tar"]
    assert named("deep/*/?.tar") == ["deep/x/u.tar"]


def test_patterns_of_objects(shards):
    import fsspec

    system = fsspec.filesystem("memory")
    for name in ("s-00.tar", "s-01.tar", "deep/u.tar"):
        system.pipe_file(f"/patterns/{name}", b"x")
    there = "memory://patterns"
    assert named(f"{there}/s-{{00..01}}.tar") == [f"{there}/s-00.tar", f"{there}/s-01.tar"]
    assert named(f"{there}/s-*.tar") == [f"{there}/s-00.tar", f"{there}/s-01.tar"]
    assert named(f"{there}/*/u.tar") == [f"{there}/deep/u.tar"]
    assert named(there) == [f"{there}/s-00.tar", f"{there}/s-01.tar"]
    with pytest.raises(SourceError, match="2 of 3 tar shards are not there"):
        named(f"{there}/s-{{01..03}}.tar")


def test_what_is_not_there_is_named(shards):
    with pytest.raises(SourceError, match="8 of 10 tar shards are not there") as caught:
        named("s-{00..09}.tar")
    assert "s-02.tar, s-03.tar, s-04.tar, …" in str(caught.value)
    for word in ("no-*.tar", "none.tar", "deep"):
        with pytest.raises(SourceError, match="there is no such tar shard"):
            named(word)


def test_words_that_are_refused(shards):
    with pytest.raises(UsageError, match="too many files"):
        named("s-{0..999999999}.tar")
    with pytest.raises(UsageError, match=r"\*\* is not known"):
        named("**/u.tar")
    with pytest.raises(UsageError, match="no source can be at this kind of URL"):
        named("pipe://curl/x.tar")


def test_options_behind_the_place():
    known = {"split": None, "ids": ("key", "shard")}
    assert split_options("a.tar?split=train&ids=shard", known) == (
        "a.tar",
        {"split": "train", "ids": "shard"},
    )
    assert split_options("a-?.tar", known) == ("a-?.tar", {})
    assert split_options("a-?.tar?split=x y", known) == ("a-?.tar", {"split": "x y"})
    for word, problem in (
        ("a?spilt=x", "did you mean 'split'"),
        ("a?ids=word", "key, shard"),
        ("a?split=", "bad value"),
        ("a?split=a&split=b", "given twice"),
    ):
        with pytest.raises(UsageError, match=problem):
            split_options(word, known)

"""Which heads a sweep's file names, and what it may not say."""

from __future__ import annotations

import pytest

from embedstore.documents import FitConfig
from embedstore.errors import UsageError
from embedstore.fit.grid import OF_THE_HEAD, read_sweep, stream_key, streams

BASE = 'image = "vision"\ntext = "words"\nlr = 1e-3\n'


@pytest.fixture
def read(tmp_path):
    def read(text, base=None, **options):
        file, under = tmp_path / "grid.toml", tmp_path / "base.toml"
        file.write_text(BASE + text, encoding="utf-8")
        if base is not None:
            under.write_text(base, encoding="utf-8")
        return read_sweep(file, None if base is None else under, **options)

    return read


def test_lists_are_combined_and_named_by_their_values(read):
    found = read("[grid]\nlr = [1e-3, 3e-3]\nmask_duplicates = [true, false]\n")
    assert [m.name for m in found] == [
        "lr=0.001,mask_duplicates=true", "lr=0.001,mask_duplicates=false",
        "lr=0.003,mask_duplicates=true", "lr=0.003,mask_duplicates=false",
    ]  # fmt: skip
    assert found[1].varied == {"lr": 0.001, "mask_duplicates": False}
    assert (found[3].config.lr, found[3].config.mask_duplicates) == (0.003, False)


def test_single_fits_meet_every_combination(read):
    found = read(
        "[grid]\nseed = [0, 1]\n[grid.options]\nlambda1 = [0.2, 0.4]\n"
        '[[fit]]\nname = "a"\nhead = "dalip"\n'
        '[[fit]]\nname = "b b"\nhead = "dalip"\n[fit.options]\nheads = 2\n'
    )
    assert [m.name for m in found][:3] == [
        "a,seed=0,lambda1=0.2",
        "a,seed=0,lambda1=0.4",
        "a,seed=1,lambda1=0.2",
    ]
    assert len(found) == 8
    assert found[-1].name == "b_b,seed=1,lambda1=0.4"
    assert found[-1].config.options == {"heads": 2, "lambda1": 0.4}
    assert found[-1].varied == {"fit": "b b", "seed": 1, "options.lambda1": 0.4}


def test_options_win_over_the_file_and_that_over_its_base(read):
    found = read("width = 8\n[grid]\nseed = [0]\n", "width = 4\nepochs = 7\ndropout = 0.2\n", dropout=0.5)
    assert (found[0].config.width, found[0].config.epochs, found[0].config.dropout) == (8, 7, 0.5)
    one = read("")
    assert [m.name for m in one] == ["head"]
    assert one[0].varied == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[grid]\nlr = 1e-3\n", r"lr is not a list of values(?s:.*)\[1, 2\]"),
        ("[grid]\nlr = []\n", "lr is not a list of values"),
        ("grid = 3\n", "grid is not a list of values"),
        ("[grid]\nlrr = [1]\n", r"lrr=1: unknown field 'lrr'(?s:.*)did you mean 'lr'"),
        ("[grid]\nwidth = [0]\n", r"grid.toml: width=0: width: input should be greater"),
        ('[fit]\nname = "a"\n', r"write \[\[fit\]\]"),
        ("fit = []\n", r"write \[\[fit\]\]"),
        ("[[fit]]\nlr = 1e-3\n", r"a \[\[fit\]\] has no name"),
        ('[[fit]]\nname = "a"\n[[fit]]\nname = "a"\n', "two members have one name(?s:.*)found: a"),
        ('[[fit]]\nname = "a"\nlr = 1e-3\n[grid]\nlr = [1e-3]\n', r"stands in \[grid\] and in a \[\[fit\]\]"),
        ('[[fit]]\nname = "../a"\n', "cannot be a folder's"),
        (f'[[fit]]\nname = "{"a" * 121}"\n', "cannot be a folder's"),
        ("[grid]\nval_fraction = [0.1]\npatience = [1]\nval_split = ['b']\n", "exclude each other"),
    ],
)  # fmt: skip
def test_what_no_sweep_can_be_is_refused(read, text, words):
    with pytest.raises(UsageError, match=words):
        read(text)


def test_what_is_varied_cannot_be_given(read):
    with pytest.raises(UsageError, match="lr is varied by the sweep and given as an option"):
        read("[grid]\nlr = [1e-3]\n", lr=2e-3)
    with pytest.raises(UsageError, match=r"options\.heads is varied"):
        read('[[fit]]\nname = "a"\n[fit.options]\nheads = 2\n', options={"heads": 4})


def test_fields_of_the_head_share_a_stream_and_all_others_do_not(read):
    found = read("[grid]\nlr = [1e-3, 2e-3]\nbatch_size = [8, 16]\nseed = [0, 1]\n")
    groups = streams(found, {m.name: False for m in found})
    assert [[m.config.lr for m in group] for group in groups] == [[0.001, 0.002]] * 4
    pooled = {m.name: m.config.lr == 1e-3 for m in found}
    assert [len(group) for group in streams(found, pooled)] == [1] * 8
    assert set(FitConfig.model_fields) >= OF_THE_HEAD
    reads = {"image", "text", "split", "role", "language", "captions", "val_split", "val_fraction", "seed"}
    assert reads | {"batch_size", "micro_batch"} <= set(stream_key(found[0].config))

"""Chosen rows, mixes and several stores: what a fit learns from, what it tells of it, and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest

from embedstore.bench import bench_retrieval
from embedstore.documents import FitConfig, HeadConfig, load_document
from embedstore.errors import UsageError
from embedstore.fit import fit_config, fit_head
from embedstore.fit.data import training_data
from embedstore.fit.rows import training_rows
from embedstore.store import create_subset, open_store
from embedstore.stream.pairs import PairStream
from embedstore.testing.stores import write_random_store

SMALL = {"image": "vision", "text": "words", "width": 8, "epochs": 2, "batch_size": 26}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("rows")
    domain = write_random_store(root / "domain", images=200, ids="a", seed=1, card_seed=7)
    write_random_store(root / "general", images=100, captions=3, ids="b", seed=2, card_seed=7)
    create_subset(domain, "odd", {"row": np.arange(1, 200, 2)})
    create_subset(domain, "even", {"row": np.arange(0, 200, 2)})
    create_subset(domain, "seconds", {"row": np.arange(1, 100, 2)}, table="texts")
    return root


@pytest.fixture(scope="module")
def domain(root):
    return open_store(root / "domain")


@pytest.fixture(scope="module")
def joined(root):
    return open_store(f"{root}/domain+{root}/general")


def config(**options):
    return fit_config(**{**SMALL, **options})


def rows_of(stream, epoch):
    """Image and text rows of each batch."""
    with stream.epoch(epoch) as batches:
        return [(b.image.rows.copy(), b.text.rows.copy()) for b in batches]


def test_a_subset_of_images_is_met_with_the_split(domain, tmp_path):
    stream, _ = training_data(domain, config(rows="odd", split="train"))
    train = [i for i in range(200) if i % 10 < 8 and i % 2]
    assert stream.rows.tolist() == train
    result = fit_head(domain, config(rows="odd", split="train"), tmp_path / "head", device="cpu")
    assert result.images == len(train)
    head = load_document(HeadConfig, tmp_path / "head" / "head.json")
    [record] = head.rows
    assert (record.name, record.table, record.rows) == ("odd", "images", 100)
    assert record.splits == ("test", "train")
    assert head.trained_on == "train"
    assert load_document(FitConfig, tmp_path / "head" / "fit.json").rows == "odd"


def test_of_a_subset_of_texts_only_these_captions_count(domain):
    stream, held = training_data(domain, config(rows="seconds", val_fraction=0.2))
    assert len(stream.rows) == 40
    assert set(stream.texts) == set(stream.rows * 2 + 1)
    for images, texts in rows_of(stream, 3):
        assert (texts == images * 2 + 1).all()
    assert sorted({*stream.rows, *held.images}) == list(range(50))
    assert held.texts.tolist() == (held.images * 2 + 1).tolist()


def test_a_file_of_ids_chooses_as_a_subset_does(domain, tmp_path):
    (tmp_path / "ids.csv").write_text("id\n" + "\n".join(f"a{i:06d}" for i in range(1, 200, 2)))
    named = training_rows(domain, config(rows=str(tmp_path / "ids.csv"), split="train"))
    assert named.images.tolist() == training_rows(domain, config(rows="odd", split="train")).images.tolist()
    assert named.record[0].name == "ids.csv"
    fit_head(domain, config(rows=str(tmp_path / "ids.csv"), epochs=1), tmp_path / "head", device="cpu")
    assert str(tmp_path) not in (tmp_path / "head" / "fit.json").read_text()
    assert load_document(FitConfig, tmp_path / "head" / "fit.json").rows == "ids.csv"


def test_heads_without_chosen_rows_are_written_as_ever(domain, tmp_path):
    fit_head(domain, config(split="train", epochs=1), tmp_path / "head", device="cpu")
    assert "rows" not in json.loads((tmp_path / "head" / "head.json").read_text())


def test_rows_that_would_choose_the_checkpoint_are_refused(domain):
    with pytest.raises(
        UsageError, match=r"val_split 'val': chosen rows are in the split[^$]*20 images, such as"
    ):
        training_data(domain, config(rows="even", val_split="val"))
    stream, held = training_data(domain, config(rows="even", split="train", val_split="val"))
    assert not set(stream.rows) & set(held.images)
    assert len(held.images) == 20


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rows": "od"}, "no subset and no file of ids is named 'od'[^$]*did you mean 'odd'"),
        ({"mix": {"odd": 1, "nobody": 1}}, "no subset and no file of ids is named 'nobody'"),
        (
            {"mix": {"odd": 1, "seconds": 1}},
            r"odd and seconds: 25 images are in two parts of the mix\n.*a000001",
        ),
    ],
)
def test_names_that_choose_nothing_or_too_much(domain, options, words):
    with pytest.raises(UsageError, match=words):
        training_data(domain, config(**options))


def test_rows_and_mix_exclude_each_other():
    with pytest.raises(UsageError, match="rows and mix exclude each other"):
        config(rows="a", mix={"b": 1})
    with pytest.raises(UsageError, match="two parts of a mix have one name"):
        config(mix={"a/ids.txt": 1, "b/ids.txt": 1})


def shares_of(stream, images):
    return int((images < 200).sum()), int((images >= 200).sum())


def test_every_epoch_and_batch_of_a_mix_has_its_shares(joined):
    stream, _ = training_data(joined, config(mix={"domain": 10, "general": 3}))
    assert stream.epoch_rows == 260
    assert stream.steps == 10
    seen = []
    for epoch in range(5):
        batches = rows_of(stream, epoch)
        for images, texts in batches:
            assert shares_of(stream, images) == (20, 6)
            owners = joined.texts(["image"])["image"].to_numpy()[texts]
            assert (owners == images).all()
        seen.append(np.concatenate([images for images, _ in batches]))
        assert len(np.unique(seen[-1])) == 260
    # All of the part that limits, in each epoch; the rows of the other take turns.
    assert all((rows < 200).sum() == 200 for rows in seen)
    often = np.bincount(np.concatenate(seen)[np.concatenate(seen) >= 200] - 200, minlength=100)
    assert often.tolist() == [3] * 100


def test_a_mix_of_subsets_with_validation_rows_held_out(domain):
    stream, held = training_data(domain, config(mix={"odd": 1, "even": 3}, val_fraction=0.1, batch_size=16))
    assert not set(stream.rows) & set(held.images)
    for images, _ in rows_of(stream, 0)[:-1]:
        assert abs((images % 2 == 0).mean() - 0.75) <= 1 / len(images)


def test_a_mix_on_the_device_and_in_parts_is_the_same_fit(joined, tmp_path):
    mixed = config(mix={"domain": 10, "general": 3}, split="train")
    losses = {}
    for name, more, options in (
        ("streamed", {}, {"cache_on_device": "no"}),
        ("cached", {}, {"cache_on_device": "yes"}),
        ("again", {}, {"buffer_mb": 1.0}),
    ):
        result = fit_head(joined, mixed.model_copy(update=more), tmp_path / name, device="cpu", **options)
        losses[name] = (result.loss, result.head.weights_sha256, result.steps)
    assert len(set(losses.values())) == 1
    head = load_document(HeadConfig, tmp_path / "cached" / "head.json")
    assert [(r.name, r.share, r.rows) for r in head.rows] == [("domain", 10, 200), ("general", 3, 100)]
    assert head.rows[1].sha256 == joined.parts[1].fingerprint
    small = mixed.model_copy(update={"micro_batch": 5, "dropout": 0.0})
    assert fit_head(joined, small, tmp_path / "micro", device="cpu").steps == losses["cached"][2]


def test_the_order_of_the_parts_decides_nothing(domain):
    first, _ = training_data(domain, config(mix={"odd": 1, "even": 3}))
    second, _ = training_data(domain, config(mix={"even": 3, "odd": 1}))
    assert first.plan(2).rows.tolist() == second.plan(2).rows.tolist()


def test_ranks_share_a_mix(joined):
    rows = training_rows(joined, config(mix={"domain": 10, "general": 3}))
    streams = [
        PairStream(
            joined,
            image="vision",
            text="words",
            rows=rows.images,
            mix=rows.mix,
            batch_size=13,
            rank=r,
            world=2,
        )
        for r in range(2)
    ]
    found = [np.concatenate([images for images, _ in rows_of(s, 1)]) for s in streams]
    together = np.concatenate(found)
    assert len(np.unique(together)) == len(together) == 260
    for stream in streams:
        assert {shares_of(stream, images) for images, _ in rows_of(stream, 1)} == {(10, 3)}


def test_too_few_rows_for_the_shares(domain):
    create_subset(domain, "one", {"row": [0]}, overwrite=True)
    with pytest.raises(UsageError, match="too few pairs to compare\n  found: 1 of"):
        training_data(domain, config(mix={"one": 2, "odd": 1}))


def test_a_part_of_a_mix_that_no_epoch_reads_is_refused(domain):
    with pytest.raises(UsageError, match=r"part 2 of 2 of the mix gives no epoch a row[^$]*shares 1000, 1"):
        training_data(domain, config(mix={"even": 1000, "odd": 1}))


def test_a_validation_that_leaves_nothing_to_fit_on_is_refused(domain):
    with pytest.raises(UsageError, match=r"val_fraction: too few pictures are left[^$]*199 of 200"):
        training_data(domain, config(val_fraction=0.995))


def test_bench_measures_chosen_rows_and_says_so(domain, tmp_path):
    out = tmp_path / "head"
    fit_head(domain, config(rows="odd", split="train"), out, device="cpu")
    whole = bench_retrieval(domain, out, split="test", device="cpu")
    assert (whole.images, whole.texts, whole.rows) == (20, 40, None)
    create_subset(domain, "half", {"row": np.arange(0, 100)}, overwrite=True)
    half = bench_retrieval(domain, out, split="test", rows="half", device="cpu")
    assert (half.images, half.texts, half.rows.name) == (10, 20, "half")
    words = bench_retrieval(domain, out, split="test", rows="seconds", device="cpu")
    assert (words.images, words.texts, words.rows.table) == (5, 5, "texts")
    with pytest.raises(UsageError, match="no subset and no file of ids is named 'hlaf'"):
        bench_retrieval(domain, out, split="test", rows="hlaf", device="cpu")


def test_bench_knows_which_splits_chosen_rows_came_from(domain, tmp_path):
    train = [i for i in range(200) if i % 10 < 8]
    create_subset(domain, "train-rows", {"row": train}, overwrite=True)
    fit_head(domain, config(rows="train-rows", val_fraction=0.2), tmp_path / "a", device="cpu")
    assert bench_retrieval(domain, tmp_path / "a", split="test", device="cpu").notes == ()
    with pytest.raises(UsageError, match="checkpoint was chosen on images that would be measured"):
        bench_retrieval(domain, tmp_path / "a", split="train", device="cpu")
    fit_head(domain, config(rows="odd"), tmp_path / "b", device="cpu")
    [note] = bench_retrieval(domain, tmp_path / "b", split="test", device="cpu").notes
    assert "holds images that it has seen" in note


def test_several_stores_with_a_validation_split(root, joined, tmp_path, run):
    code, out, err = run(
        "fit", f"{root}/domain+{root}/general", "--out", tmp_path / "head", "--image", "vision",
        "--text", "words", "--width", 8, "--epochs", 2, "--batch-size", 26, "--device", "cpu",
        "--split", "train", "--val-split", "val", "--json",
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(out)
    assert found["images"] == 240
    assert set(found["recall"]) == {"text_to_image", "image_to_text"}
    head = load_document(HeadConfig, tmp_path / "head" / "head.json")
    assert head.stores == tuple(part.fingerprint for part in joined.parts)
    code, _, err = run("bench", "retrieval", f"{root}/domain", "--head", tmp_path / "head", "--split", "val")
    assert code == 2
    assert "chosen on images that would be measured" in err


def test_the_command_takes_rows_and_mixes(root, tmp_path, run):
    options = ("--image", "vision", "--text", "words", "--width", 8, "--epochs", 1, "--device", "cpu")
    code, out, err = run(
        "fit",
        f"{root}/domain+{root}/general",
        "--out",
        tmp_path / "a",
        *options,
        "--mix",
        "domain=10,general=3",
    )
    assert code == 0, err
    assert "domain: 200 images, share 10" in out
    code, out, err = run("fit", root / "domain", "--out", tmp_path / "b", *options, "--rows", "odd")
    assert code == 0, err
    assert "odd: 100 images" in out
    code, out, err = run(
        "bench", "retrieval", root / "domain", "--head", tmp_path / "b", "--rows", "odd", "--json"
    )
    assert code == 0, err
    assert json.loads(out)["rows"]["name"] == "odd"
    toml = tmp_path / "fit.toml"
    toml.write_text('image = "vision"\ntext = "words"\nwidth = 8\nepochs = 1\n[mix]\nodd = 1\neven = 2.5\n')
    code, out, err = run("fit", root / "domain", "--out", tmp_path / "c", "--config", toml, "--device", "cpu")
    assert code == 0, err
    assert "even: 100 images, share 2.5" in out
    for wrong in ("domain", "domain=0", "domain=1,domain=2", "=3", "domain=x"):
        code, _, err = run("fit", root / "domain", "--out", tmp_path / "d", *options, "--mix", wrong)
        assert code == 2
        assert "not the parts of a mix" in err


class StoppedError(Exception):
    """What stands in for the end of a process."""


@pytest.mark.parametrize("more", [{}, {"micro_batch": 7}])
def test_a_stopped_mix_goes_on_to_the_same_head(joined, tmp_path, more):
    mixed = config(mix={"domain": 10, "general": 3}, dropout=0.2, **more)

    def stop(at):
        if at.step == 13:
            raise StoppedError

    whole = fit_head(joined, mixed, tmp_path / "whole", device="cpu")
    with pytest.raises(StoppedError):
        fit_head(joined, mixed, tmp_path / "head", device="cpu", checkpoint_steps=4, on_progress=stop)
    again = fit_head(joined, mixed, tmp_path / "head", device="cpu")
    assert again.head.weights_sha256 == whole.head.weights_sha256
    assert (again.steps, whole.steps) == (20, 20)


def test_a_fit_whose_subset_has_changed_does_not_go_on(domain, tmp_path):
    def stop(at):
        if at.step == 3:
            raise StoppedError

    create_subset(domain, "moving", {"row": np.arange(0, 60)}, overwrite=True)
    with pytest.raises(StoppedError):
        fit_head(
            domain,
            config(rows="moving"),
            tmp_path / "head",
            device="cpu",
            checkpoint_steps=1,
            on_progress=stop,
        )
    create_subset(domain, "moving", {"row": np.arange(1, 61)}, overwrite=True)
    with pytest.raises(UsageError, match="an unfinished fit with another store is here"):
        fit_head(domain, config(rows="moving"), tmp_path / "head", device="cpu")

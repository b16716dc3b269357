from __future__ import annotations

import itertools

import numpy as np
import pytest

from embedstore.bench import Measured, compare_files, write_measured, write_report
from embedstore.bench.figures import class_figures
from embedstore.bench.outcomes import Outcomes, class_outcomes, figures_of, rank_outcomes
from embedstore.documents import BenchReport, Comparison
from embedstore.errors import UsageError
from embedstore.metrics import intervals
from embedstore.metrics.statistics import Statistic

IDS = [f"text-{i}" for i in range(200)]


def retrieval(ranks, ids=IDS, group="text_to_image", owners=None, **fields):
    """A report over these ranks as retrieval makes it, with its outcomes."""
    outcomes = rank_outcomes(list(ids), np.asarray(ranks), owners=owners)
    report = BenchReport(
        task="retrieval",
        metrics={group: figures_of(outcomes, seed=0)},
        **{"store_fingerprint": "0" * 64, "head_sha256": "1" * 64} | fields,
    )
    return Measured(report=report, outcomes={group: outcomes})


def compare_one(a, b, **options):
    (found,) = compare_files(a, b, **options).comparisons
    return found


@pytest.fixture
def compare(tmp_path):
    """Write two reports and compare them."""

    def run(a, b, **options):
        for measured, name in ((a, "a.json"), (b, "b.json")):
            write_measured(measured, tmp_path / name)
        return compare_one(tmp_path / "a.json", tmp_path / "b.json", **options)

    return run


@pytest.fixture(scope="module")
def ranks():
    return np.random.default_rng(0).integers(1, 12, 200)


def test_rows_of_the_same_ids_are_paired_in_whatever_order(compare, ranks) -> None:
    # B finds a few texts one place earlier, and none later: a small but sure gain, which only pairs can show.
    better = np.where((np.arange(200) % 2 == 0) & (ranks == 6), 5, ranks)
    order = np.random.default_rng(1).permutation(200)
    found = compare(retrieval(ranks), retrieval(better[order], np.array(IDS)[order]))
    one = found.metrics["text_to_image"]["recall@5"]
    gain = (better <= 5).astype(float) - (ranks <= 5)
    low, high = intervals.mean_interval(gain, seed=7)
    assert (one.how, one.better, found.units, found.unpaired) == ("paired", "b", {"text_to_image": 200}, {})
    assert one.difference.value == pytest.approx(gain.mean())
    assert (one.difference.low, one.difference.high) == pytest.approx((low, high), abs=0.006)
    assert one.difference.low > 0
    # The same figures of other rows: far too little to tell.
    others = compare(retrieval(ranks), retrieval(better, [f"other-{i}" for i in range(200)]))
    apart = others.metrics["text_to_image"]["recall@5"]
    assert (apart.how, apart.better) == ("unpaired", "noise")
    assert others.unpaired == {"text_to_image": "other rows: 0 in both, 200 only in A, 200 only in B"}
    assert apart.difference.high - apart.difference.low > 2 * (one.difference.high - one.difference.low)


def test_texts_of_one_image_are_drawn_together(compare) -> None:
    """Five texts an image that fare alike tell as much as one: pairs of them too."""
    rng = np.random.default_rng(4)
    ours, theirs = rng.integers(1, 12, (2, 40))
    owners = np.repeat([f"image-{i}" for i in range(40)], 5).tolist()
    alike = compare(*(retrieval(np.repeat(ranks, 5), owners=owners) for ranks in (ours, theirs)))
    single = compare(*(retrieval(ranks, owners[::5]) for ranks in (ours, theirs)))
    assert alike.units == single.units == {"text_to_image": 40}
    found, wanted = (one.metrics["text_to_image"]["recall@5"].difference for one in (alike, single))
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))


def test_the_same_texts_of_other_images_are_not_paired(compare, ranks) -> None:
    owners = [f"image-{i // 5}" for i in range(200)]
    found = compare(retrieval(ranks, owners=owners), retrieval(ranks, owners=owners[::-1]))
    assert found.unpaired == {"text_to_image": "the same rows, but of other images"}


def test_unpaired_intervals_are_those_of_independent_samples(compare, ranks) -> None:
    other = np.random.default_rng(9).integers(1, 12, 300)
    a, b = retrieval(ranks), retrieval(other, [f"other-{i}" for i in range(300)])
    one = compare(a, b).metrics["text_to_image"]["recall@5"]
    p, q = (ranks <= 5).mean(), (other <= 5).mean()
    spread = 1.96 * np.sqrt(p * (1 - p) / 200 + q * (1 - q) / 300)
    assert one.difference.low == pytest.approx(q - p - spread, abs=0.02)
    assert one.difference.high == pytest.approx(q - p + spread, abs=0.02)


def test_without_rows_the_two_intervals_tell_and_the_reason_is_said(compare, ranks, tmp_path) -> None:
    paired = compare(retrieval(ranks), retrieval(np.maximum(ranks - 2, 1)))
    (tmp_path / "b.outcomes.parquet").unlink()
    gone = compare_one(tmp_path / "a.json", tmp_path / "b.json")
    assert gone.unpaired == {"text_to_image": "no rows of b.json: b.outcomes.parquet is not beside it"}
    write_report(retrieval(ranks).report, tmp_path / "a.json")
    old = compare_one(tmp_path / "a.json", tmp_path / "b.json")
    assert old.unpaired == {"text_to_image": "no rows of a.json: it was written without its rows"}
    for found in (gone, old):
        one = found.metrics["text_to_image"]["recall@5"]
        assert one.how == "intervals"
        assert one.better == "b"
        wide = paired.metrics["text_to_image"]["recall@5"].difference
        assert one.difference.high - one.difference.low > wide.high - wide.low


def test_categories_that_share_images_are_counted_by_their_images(compare) -> None:
    """Six images with a pair in "a"; two of them have one in "b" too, so that images are drawn as wholes."""
    images = [f"image-{i}" for i in (*range(6), 0, 1)]
    outcomes = Outcomes(
        ids=[f"pair-{i}" for i in range(8)],
        owners=images,
        strata=["a"] * 6 + ["b"] * 2,
        values={"right": np.array([1, 1, 1, 1, 0, 1, 0, 1.0])},
        statistics={"mean-per-category": Statistic(kind="stratum-mean", value="right")},
    )
    report = BenchReport(
        task="negatives",
        metrics={"image_to_text": figures_of(outcomes, seed=0)},
        store_fingerprint="0" * 64,
        head_sha256="1" * 64,
    )
    measured = Measured(report=report, outcomes={"image_to_text": outcomes})
    (note,) = compare(measured, measured).notes
    assert note.startswith("image_to_text mean-per-category: 1 of 2 classes have fewer than 5 images, so")


def test_lower_ranks_are_better(compare, ranks) -> None:
    found = compare(retrieval(ranks), retrieval(ranks + 4)).metrics["text_to_image"]
    assert (found["median_rank"].better, found["median_rank"].difference.value) == ("a", 4.0)
    assert (found["recall@5"].better, found["recall@5"].difference.value < 0) == ("a", True)


def test_a_report_is_not_better_than_itself(compare, ranks) -> None:
    found = compare(retrieval(ranks), retrieval(ranks))
    for one in found.metrics["text_to_image"].values():
        assert (one.difference.value, one.difference.low, one.difference.high) == (0, 0, 0)
        assert one.better == "noise"
    assert found.settings == {}


def test_a_mean_per_class_pairs_within_its_classes(compare) -> None:
    labels, names = np.arange(60) % 3, np.array(["cat", "dog", "fox"])
    ranks = np.random.default_rng(2).integers(1, 4, 60)

    def zeroshot(ranks, labels, rows=60):
        figures, _ = class_figures(ranks, labels, 3, seed=0)
        return Measured(
            report=BenchReport(
                task="zeroshot", metrics={"image_to_class": figures}, store_fingerprint="0" * 64
            ),
            outcomes={"image_to_class": class_outcomes(IDS[:rows], ranks, names[labels].tolist())},
        )

    better = np.where(labels == 2, 1, ranks)
    one = compare(zeroshot(ranks, labels), zeroshot(better, labels)).metrics["image_to_class"]
    assert {d.how for d in one.values()} == {"paired"}
    assert one["mean-per-class"].difference.value == pytest.approx((ranks[labels == 2] > 1).mean() / 3)
    assert one["mean-per-class"].better == "b"
    rare = compare(zeroshot(ranks[:7], labels[:7], 7), zeroshot(better[:7], labels[:7], 7))
    (note,) = rare.notes
    assert note == (
        "image_to_class mean-per-class: 3 of 3 classes have fewer than 5 images, so its interval cannot be "
        "relied on"
    )
    assert compare(zeroshot(better, labels), zeroshot(ranks[:7], labels[:7], 7)).notes == rare.notes
    moved = compare(zeroshot(ranks, labels), zeroshot(ranks, np.roll(labels, 1)))
    assert moved.unpaired == {"image_to_class": "the same rows, but of other classes"}


def test_what_the_figures_depend_on_is_told_where_it_differs(compare, ranks) -> None:
    fields = {"head_sha256": "2" * 64, "split": "val", "templates": ("a {}",), "device": "cuda", "seed": 5}
    found = compare(
        retrieval(ranks, versions={"torch": "2.0"}),
        retrieval(ranks, versions={"torch": "2.1"}, options={"k": 3}, **fields),
    )
    assert found.settings == {
        "device": ("cpu", "cuda"),
        "head_sha256": ("1" * 64, "2" * 64),
        "options.k": (None, "3"),
        "seed": ("0", "5"),
        "split": (None, "val"),
        "templates": ("[]", '["a {}"]'),
        "versions.torch": ("2.0", "2.1"),
    }


def test_figures_of_one_report_only_are_told(compare, ranks) -> None:
    a, b = retrieval(ranks), retrieval(ranks)
    more = dict(itertools.islice(a.report.metrics["text_to_image"].items(), 2))
    b.report.metrics["text_to_image/de"] = more
    del a.report.metrics["text_to_image"]["median_rank"]
    found = compare(a, b)
    assert found.only == {
        "text_to_image/de/recall@1": "b",
        "text_to_image/de/recall@5": "b",
        "text_to_image/median_rank": "b",
    }
    assert set(found.metrics) == {"text_to_image"}


def test_reports_that_cannot_be_compared_are_refused(compare, ranks, tmp_path) -> None:
    other = BenchReport(task="zeroshot", metrics={}, store_fingerprint="0" * 64)
    with pytest.raises(UsageError, match=r"different tasks[\s\S]*retrieval and zeroshot"):
        compare(retrieval(ranks), Measured(report=other))
    with pytest.raises(UsageError, match=r"no figure in common[\s\S]*text_to_image and image_to_text"):
        compare(retrieval(ranks), retrieval(ranks, group="image_to_text"))
    with pytest.raises(UsageError, match=r"none\.json: cannot be read"):
        compare_one(tmp_path / "none.json", tmp_path / "b.json")
    (tmp_path / "a.json").write_text('{"task": 3}')
    with pytest.raises(UsageError, match=r"a\.json: BenchReport is not valid"):
        compare_one(tmp_path / "a.json", tmp_path / "b.json")
    compare(retrieval(ranks), retrieval(ranks))
    (tmp_path / "b.outcomes.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match="not those of the report"):
        compare_one(tmp_path / "a.json", tmp_path / "b.json")


def test_a_comparison_reads_back_and_tells_how_far_it_is(compare, ranks) -> None:
    seen = []
    found = compare(retrieval(ranks), retrieval(ranks + 1), on_progress=lambda *at: seen.append(at))
    assert Comparison.from_json(found.to_json(), where="here") == found
    assert seen == [(1, 1)]
    assert found.to_json() == compare(retrieval(ranks), retrieval(ranks + 1)).to_json()
    assert (found.a.file, found.b.file) == ("a.json", "b.json")

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from embedstore.bench import bench_negatives, measure_negatives, write_measured
from embedstore.bench.negatives import NO_OWN
from embedstore.bench.outcomes import read_outcomes
from embedstore.bench.rows import NO_TEXT
from embedstore.errors import UsageError
from embedstore.metrics.statistics import values_of
from embedstore.store import create_store, open_store, plan_feature
from embedstore.store.tables import IMAGES, TEXTS
from embedstore.testing.stores import random_card, random_plan, write_feature

# Image, words, role, category, the axis that the text lies on (image i on axis i), readable.
ROWS = [
    (0, "a cat", "caption", None, 0, True),
    (0, "a dog", "negative", "swap", 1, True),  # right
    (0, "a cat", "negative", "swap", 2, True),  # the same words: equal, whatever its features are
    (1, "two hats", "caption", None, 1, True),
    (1, "two bats", "negative", "swap", 1, True),  # other words, equal scores
    (1, "too hats", "negative", "add", 2, True),  # right
    (1, "two caps", "caption", None, 3, True),
    (1, "two cups", "negative", "add", 1, True),  # wrong: alters the second caption
    (2, "a sea", "negative", "add", 0, True),  # no caption before it
    (2, "a tree", "caption", None, 2, True),
    (2, "", "negative", "add", 2, False),  # cannot be read
    (3, "no split", "caption", None, 3, True),
    (3, "no negative here", "negative", "add", 0, True),
]


def write(path, rows, *, categories=True):
    """A store of four pictures whose features say nothing but an axis; the last is in another split."""
    plan = random_plan(images=4, captions=0).model_copy(
        update={
            "texts": len(rows),
            "splits": {"test": 3, "train": 1},
            "languages": {"en": len(rows)},
            "roles": {r: sum(row[2] == r for row in rows) for r in ("caption", "negative")},
        }
    )
    pictures = [
        {
            "id": f"p{i}",
            "picture": "p.png",
            "nbytes": 1,
            "label": None,
            "split": "train" if i == 3 else "test",
        }
        for i in range(4)
    ]
    words = [
        {
            "id": f"p{image}#{k}",
            "image": image,
            "text": text,
            "language": "en",
            "role": role,
            "category": category if categories else None,
        }
        for k, (image, text, role, category, _, _) in enumerate(rows)
    ]
    tables = (
        pa.Table.from_pylist(pictures, schema=IMAGES),
        pa.Table.from_pylist(words, schema=TEXTS),
    )
    create_store(path, plan, images=[tables[0]], texts=[tables[1]])
    axes = np.eye(4, dtype=np.float32)
    for name, modality, of in (("seen", "image", [0, 1, 2, 3]), ("said", "text", [row[4] for row in rows])):
        card = random_card(modality, width=4, tokens=4, prefix=0)
        header = plan_feature(name=name, plan=plan, card=card)
        arrays = {"pooled": axes[of]}
        if modality == "image":
            arrays["tokens"] = np.repeat(axes[of][:, None], 4, axis=1)
        else:
            good = np.array([row[5] for row in rows])
            arrays |= {"tokens": axes[of][good], "lengths": good.astype(np.int32)}
        write_feature(path, header, arrays)
    return open_store(path)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write(tmp_path_factory.mktemp("negatives") / "store", ROWS)


def test_accuracy_by_hand(store) -> None:
    measured = measure_negatives(store, image="seen", text="said", device="cpu")
    report, found = measured.report, measured.found
    assert found.negatives.tolist() == [1, 2, 4, 5, 7]
    assert found.captions.tolist() == [0, 0, 3, 3, 6]
    assert found.right.tolist() == [1, 0.5, 0.5, 1, 0]
    values = {group: {m: f.value for m, f in own.items()} for group, own in report.metrics.items()}
    swap, add = 2 / 3, 1 / 2
    assert values == {
        "image_to_text": {"accuracy": 0.6, "mean-per-category": pytest.approx((swap + add) / 2)},
        "image_to_text/add": {"accuracy": add},
        "image_to_text/swap": {"accuracy": pytest.approx(swap)},
    }
    assert all(f.low <= f.value <= f.high for own in report.metrics.values() for f in own.values())
    assert (
        report.metrics["image_to_text"]["accuracy"].low
        < 0.6
        < report.metrics["image_to_text"]["accuracy"].high
    )
    assert report.chance["image_to_text"] == {"accuracy": 0.5, "mean-per-category": 0.5}
    assert report.skipped == {NO_OWN: 1, NO_TEXT: 1}
    assert (report.images, report.texts, report.options, report.role) == (2, 8, {"pairs": 5}, "negative")
    assert report.notes == (
        "cosines mean something only if random-image-0 and random-text-0 were trained together",
        "2 of 5 pairs have equal scores, which count half",
    )


def test_the_outcomes_give_the_same_figures(store, tmp_path) -> None:
    measured = measure_negatives(store, image="seen", text="said", device="cpu")
    written = write_measured(measured, tmp_path / "n.json")
    outcomes = read_outcomes(tmp_path / "n.outcomes.parquet", written.outcomes_sha256)
    for group, own in measured.report.metrics.items():
        found = outcomes[group]
        assert values_of(found.sample, found.statistics) == pytest.approx(
            {m: f.value for m, f in own.items()}
        )
    assert outcomes["image_to_text/add"].ids.to_pylist() == ["p1#5", "p1#7"]


def test_every_row_and_chosen_rows(store) -> None:
    whole = bench_negatives(store, image="seen", text="said", split=None, device="cpu")
    assert whole.options == {"pairs": 6}
    one = bench_negatives(store, image="seen", text="said", split=None, rows=np.array([0]), device="cpu")
    assert one.metrics["image_to_text"]["accuracy"].value == 0.75
    assert list(one.metrics) == ["image_to_text", "image_to_text/swap"]


def test_without_categories_there_is_one_figure(tmp_path) -> None:
    store = write(tmp_path / "store", ROWS, categories=False)
    report = bench_negatives(store, image="seen", text="said", device="cpu")
    assert {group: list(own) for group, own in report.metrics.items()} == {"image_to_text": ["accuracy"]}


def test_where_one_category_is_missing_there_is_no_mean_over_them(tmp_path) -> None:
    rows = [(*row[:3], None if row[1] == "a dog" else row[3], *row[4:]) for row in ROWS]
    report = bench_negatives(write(tmp_path / "store", rows), image="seen", text="said", device="cpu")
    assert list(report.metrics["image_to_text"]) == ["accuracy"]
    assert set(report.metrics) == {"image_to_text", "image_to_text/add", "image_to_text/swap"}
    assert any("1 of 5 pairs have no category" in note for note in report.notes)


def test_nothing_to_measure_is_told(store, tmp_path) -> None:
    with pytest.raises(UsageError, match=r"nothing to measure[\s\S]*without the caption that it alters': 1"):
        bench_negatives(store, image="seen", text="said", rows=np.array([2]), device="cpu")
    bare = write(tmp_path / "bare", [row for row in ROWS if row[2] == "caption"])
    with pytest.raises(UsageError, match=r"no text has the role 'negative'[\s\S]*roles caption"):
        bench_negatives(bare, image="seen", text="said", device="cpu")


def test_the_command_prints_every_category(run, store) -> None:
    command = ("bench", "negatives", store.path, "--image", "seen", "--text", "said", "--device", "cpu")
    code, text, err = run(*command)
    assert code == 0, err
    assert "image to text/swap accuracy" in text
    assert "66.7 %" in text
    assert "1 rows left out: an altered caption without the caption that it alters" in err
    assert max(map(len, text.splitlines())) <= 80
    code, text, _ = run(*command, "--json")
    assert json.loads(text)["metrics"]["image_to_text"]["accuracy"]["value"] == 0.6

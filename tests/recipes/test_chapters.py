from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from embedstore.bench.segmentation.overlays import Overlay
from embedstore.documents import (
    EasePoint,
    EaseReport,
    Figure,
    FitConfig,
    PolicyFigures,
    PolicyScore,
    PolicyStudy,
    Rate,
    RatesReport,
)
from embedstore.recipes.bench_page import bench_page
from embedstore.recipes.chapters import long_text, negatives, others, policies, segment, settings
from embedstore.testing.stores import random_card, write_random_store

EVIL = "<b>evil"


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """Nothing but a store of 6 images with 2 captions each."""
    return SimpleNamespace(store=write_random_store(tmp_path_factory.mktemp("chapters") / "store", images=6))


def test_altered_captions_that_won_are_told_once_a_picture(setting) -> None:
    words = setting.store.texts()["text"].to_pylist()
    found = SimpleNamespace(
        setting=setting,
        images=np.array([0, 0, 1, 2, 3]),
        captions=np.array([0, 0, 2, 4, 6]),
        negatives=np.array([1, 1, 3, 5, 7]),
        categories=("swap", "add", None, "add", "add"),
        caption_scores=np.array([0.5, 0.5, 0.1, 0.9, 0.3]),
        negative_scores=np.array([0.6, 0.7, 0.2, 0.1, 0.3]),
    )
    cards = negatives.mistakes(found)
    assert [card.lines for card in cards] == [
        (f"right, 0.50: {words[0]}", f"altered, 0.70: {words[1]}", "(add)"),
        (f"right, 0.10: {words[2]}", f"altered, 0.20: {words[3]}"),
    ]
    assert cards[0].picture is None
    found.negative_scores = found.caption_scores
    assert negatives.negatives_blocks(found, None) == []


def test_long_texts_that_reading_more_won_and_lost(setting) -> None:
    pairs = SimpleNamespace(texts=np.arange(4), images=np.arange(2), image_of=np.array([0, 0, 1, 1]))
    ranks = [SimpleNamespace(text_to_image=np.array(r)) for r in ([5, 1, 2, 9], [3, 1, 2, 9], [1, 1, 6, 2])]
    found = SimpleNamespace(setting=setting, pairs=pairs, ranks=ranks, limits=(8, 16, 32))
    won, lost = long_text.long_text_blocks(found, None)
    assert [card.lines[0] for card in won.value] == [
        "8: rank 9, 16: rank 9, 32: rank 2",
        "8: rank 5, 16: rank 3, 32: rank 1",
    ]
    assert [card.lines[0] for card in lost.value] == ["8: rank 2, 16: rank 2, 32: rank 6"]
    assert lost.value[0].alt == setting.store.texts()["text"][2].as_py()


def test_an_overlay_has_three_panels_and_its_colours() -> None:
    overlay = Overlay(
        row=3,
        iou=0.25,
        picture=np.full((4, 4, 3), 90, np.uint8),
        truth=np.array([[0] * 4, [1] * 4, [2] * 4, [-1] * 4]),
        predicted=np.ones((4, 4), np.int64),
        labels=("a", EVIL, "background"),
        background=2,
    )
    shown = segment.masked(overlay)
    assert [name for name, _ in shown.panels] == ["picture", "truth", "prediction"]
    assert len({data for _, data in shown.panels}) == 3
    assert all(data.startswith(b"\xff\xd8") for _, data in shown.panels)
    assert [label for _, label in shown.colours] == ["a", EVIL]
    assert shown.words == "mean IoU 25.0 %"


def ease(high: float) -> EaseReport:
    points = tuple(
        EasePoint(image=EVIL[3:], text="t", cka=k / 9, cka_unbiased=0.1, loss=2 - k / 9) for k in range(9)
    )
    metrics = {"cka": {"pearson": Figure(value=-0.5, low=-0.8, high=high)}}
    return EaseReport(points=points, metrics=metrics, vectors=32, iterations=500, lr=0.01, temperature=0.07)


def test_ease_below_0_is_better_than_chance() -> None:
    assert others.ease_measures(ease(-0.1))[0].against_chance == "better"
    page = bench_page([ease(-0.1)])
    assert "<h1>Ease of alignment</h1>" in page
    assert "Better than chance with the whole of their 95 % interval: 1 of 1 figures." in page
    assert ">−0.5<" in page
    assert "−0.8 – −0.1" in page
    assert "1 of 1 figures do not show" in bench_page([ease(0.1)])


def test_rates_stand_beside_their_limit() -> None:
    rate = Rate(
        of=EVIL, what=EVIL, unit="B/s", value=2.5e9, low=2e9, high=3e9, rounds=3, limit="memcpy", share=0.5
    )
    page = bench_page(
        [RatesReport(task="cache", rates=(rate,), threads=2, store_fingerprint="0" * 64, notes=(EVIL,))]
    )
    assert EVIL not in page
    assert page.count("&lt;b&gt;evil") == 3
    assert "2.5 GB/s" in page
    assert "0.50 of memcpy" in page


def policy(name: str, size: int, change: Figure | None) -> PolicyFigures:
    share = Figure(value=0.4, low=0.3, high=0.5)
    score = PolicyScore(value=share, change=change, seeds=(0.4,))
    return PolicyFigures(
        policy=name,
        bytes=size,
        tokens=(9, 16),
        pictures_per_second=100,
        cosine_error=0.001,
        cosine_of="tokens",
        recall=score,
        top_1=score,
    )


def test_policies_tell_bytes_and_whether_a_change_is_noise() -> None:
    study = PolicyStudy(
        feature="vision",
        policies=(
            policy("float16", 1000, None),
            policy("int8", 500, Figure(value=-0.1, low=-0.2, high=-0.05)),
            policy("merge-4", 100, Figure(value=0.01, low=-0.02, high=0.05)),
        ),
        left_out={"pq-8": EVIL},
        config=FitConfig(image="vision", text="words", head="dalip", options={"second": "bdc"}, dropout=0),
        seeds=1,
        split=None,
        images=5,
        texts=10,
        store_fingerprint="0" * 64,
        image_card=random_card("image", width=16, tokens=9),
        text_card=random_card("text", width=16, tokens=9),
    )
    plots, stored, recall, top_1, facts = policies.policies_blocks(study)
    assert stored.value.rows[1][:3] == ("int8", "500", "2.0")
    assert recall.value.rows == top_1.value.rows
    assert [row[-1] for row in recall.value.rows] == ["", "worse", "noise"]
    assert recall.value.rows[1][2:4] == ("-10.0", "-20.0 to -5.0")
    (fits,) = [one for one in settings.settings_sections(study, None) if one.title == "Fits"]
    told = {fact.name: fact.value for fact in fits.facts}
    assert (told["head"], told["options"], told["epochs"]) == ("dalip", "second=bdc", "20")
    # What is 0 is set too; what is off or none is not told.
    assert (told["seed"], told["dropout"]) == ("0", "0.0")
    assert "compile" not in told
    # The plot stands below its heading, and does not say it again.
    assert plots.value[0].title not in plots.value[0].svg
    assert plots.value[0].alt == (
        "float16 40.0 at 1,000 bytes; int8 40.0 at 500 bytes; merge-4 40.0 at 100 bytes"
    )
    assert facts.value[0].facts[-1].value == f"pq-8: {EVIL}"
    page = bench_page([study])
    assert "<h1>Storage policies</h1>" in page
    assert EVIL not in page

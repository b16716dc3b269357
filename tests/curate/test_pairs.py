"""`curate pairs`: figures against whole matrices of what the store holds, and what is said of them."""

import json
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from embedstore.curate import pair_sums, pairs_svg, rank_pairs
from embedstore.documents import PairsReport, QuarantinedRow
from embedstore.errors import UsageError
from embedstore.metrics.cka import linear_cka, rbf_cka
from embedstore.store import FeatureWriter, create_subset, open_store, plan_feature
from embedstore.testing.stores import random_card, write_random_store

IMAGES, CAPTIONS = 300, 2


def add_pictures(store, name, vectors, *, seed, bad=()):
    """A feature of one patch and a CLS, both the row's vector."""
    width = vectors.shape[1]
    card = random_card("image", width=width, tokens=1, seed=seed)
    header = plan_feature(name=name, plan=store.plan, card=card, policy="float32")
    values = vectors.astype(np.float32)
    arrays = {"tokens": values[:, None], "prefix": values[:, None], "pooled": values}
    writer = FeatureWriter.open(store.path, header)
    for unit in writer.missing_units():
        rows = header.unit_rows(unit)
        part = {array: held[rows.start : rows.stop] for array, held in arrays.items()}
        missing = [QuarantinedRow(row=row, id=f"s{row:06d}", reason="broken") for row in bad if row in rows]
        writer.write_unit(unit, part, quarantined=missing)
    writer.finish()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The random store, whose two features share a latent, with a weaker encoder and one of noise beside."""
    path = tmp_path_factory.mktemp("pairs") / "store"
    made = write_random_store(path, images=IMAGES, captions=CAPTIONS, seed=3, noise=0.3)
    rng = np.random.default_rng(0)
    seen = np.asarray(made["vision"].decoded("pooled", np.arange(IMAGES)), np.float64)
    add_pictures(made, "weak", seen + 3.0 * rng.normal(size=seen.shape), seed=11)
    add_pictures(made, "wide-noise", rng.normal(size=(IMAGES, 400)), seed=12)
    return open_store(path)


def all_vectors(store):
    """What freeze-align compares: mean over CLS and patches, mean of a picture's sentence embeddings."""
    rows = np.arange(IMAGES)
    feature = store["vision"]
    tokens = np.concatenate([feature.decoded("prefix", rows), feature.decoded("tokens", rows)], axis=1)
    words = store["words"].decoded("pooled", np.arange(IMAGES * CAPTIONS)).astype(np.float64)
    return tokens.astype(np.float64).mean(axis=1), words.reshape(IMAGES, CAPTIONS, -1).mean(axis=1)


def found(report, image):
    return next(pair for pair in report.pairs if pair.image == image)


def test_figures_are_those_of_whole_matrices(store):
    report = rank_pairs(store)
    x, y = all_vectors(store)
    pair = found(report, "vision")
    linear, rbf = linear_cka(x, y), rbf_cka(x, y)
    assert pair.linear.value == pytest.approx(linear.unbiased, rel=1e-6)
    assert pair.linear_biased.value == pytest.approx(linear.biased, rel=1e-6)
    assert pair.rbf.value == pytest.approx(rbf.unbiased, rel=1e-4)
    assert pair.rbf_biased == pytest.approx(rbf.biased, rel=1e-4)
    assert report.vectors == {
        "vision": "tokens", "weak": "tokens", "wide-noise": "tokens", "words": "pooled"
    }  # fmt: skip
    assert (report.images, report.texts, report.sample) == (IMAGES, IMAGES * CAPTIONS, IMAGES)


def test_neighbours_are_those_of_a_sorted_cosine_matrix(store):
    report = rank_pairs(store, neighbours=7)
    lists = []
    for vectors in all_vectors(store):
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        cosines = unit @ unit.T
        np.fill_diagonal(cosines, -2)
        lists.append(np.argsort(-cosines, axis=1)[:, :7])
    shared = [len(set(a) & set(b)) / 7 for a, b in zip(*lists, strict=True)]
    assert found(report, "vision").knn.value == pytest.approx(np.mean(shared), abs=1e-3)
    assert report.knn_chance == pytest.approx(7 / (IMAGES - 1))


def test_the_order_and_a_sure_best(store):
    report = rank_pairs(store)
    assert [pair.image for pair in report.pairs] == ["vision", "weak", "wide-noise"]
    assert report.level == ()
    assert report.pairs[0].behind is None
    assert report.pairs[1].behind.low > 0
    noise = report.pairs[2]
    assert noise.linear.low < 0 < noise.linear.high
    assert abs(noise.linear.value) < 0.02
    # The biased estimate takes a wide stranger for a relative.
    assert noise.linear_biased.value > 0.05


def test_pairs_that_differ_by_noise_are_told_of(store, tmp_path):
    own = write_random_store(tmp_path / "store", images=120, captions=1, seed=3, noise=0.3)
    rng = np.random.default_rng(1)
    seen = np.asarray(own["vision"].decoded("pooled", np.arange(120)), np.float64)
    for k in range(2):
        add_pictures(own, f"twin{k}", seen + rng.normal(size=seen.shape), seed=20 + k)
    report = rank_pairs(open_store(own.path), image=["twin0", "twin1"])
    assert len(report.level) == 1
    assert report.pairs[1].behind.low <= 0 <= report.pairs[1].behind.value


def test_blocks_make_no_difference(store, monkeypatch):
    whole = rank_pairs(store, sample=100)
    monkeypatch.setattr(pair_sums, "BLOCK", 37)
    steps = []
    cut = rank_pairs(store, sample=100, progress=lambda done, total: steps.append((done, total)))
    for a, b in zip(whole.pairs, cut.pairs, strict=True):
        assert (a.image, a.text) == (b.image, b.text)
        for name in ("linear", "linear_biased", "rbf", "knn"):
            one, other = getattr(a, name), getattr(b, name)
            assert (one.value, one.low) == pytest.approx((other.value, other.low), rel=1e-7, abs=1e-9)
    assert steps[0] == (37, IMAGES)
    assert steps[-1] == (IMAGES, IMAGES)


def test_a_sample_is_a_function_of_the_seed(store):
    one, same, other = (rank_pairs(store, sample=80, seed=seed) for seed in (0, 0, 1))
    assert one == same
    assert one.pairs[0].linear.value == other.pairs[0].linear.value
    assert one.pairs[0].rbf.value != other.pairs[0].rbf.value


def test_rows_and_captions_are_chosen(store):
    test = rank_pairs(store, split="test", image=["vision"])
    assert test.images == IMAGES // 10
    first = rank_pairs(store, captions="first", image=["vision"])
    x, _ = all_vectors(store)
    words = store["words"].decoded("pooled", np.arange(0, IMAGES * CAPTIONS, CAPTIONS))
    assert first.texts == IMAGES
    assert first.pairs[0].linear.value == pytest.approx(linear_cka(x, words).unbiased, rel=1e-6)
    means = rank_pairs(store, image=["vision"], image_vector="cls", text_vector="tokens")
    assert means.vectors == {"vision": "cls", "words": "tokens"}
    assert means.pairs[0].linear.value != test.pairs[0].linear.value


def test_a_subset_narrows_the_rows(tmp_path):
    own = write_random_store(tmp_path / "store", images=60, captions=2, seed=1)
    create_subset(own, "few", {"row": np.arange(10, 30)}, verb="sample")
    report = rank_pairs(own, rows="few")
    assert (report.images, report.texts, report.rows.name) == (20, 40, "few")


def test_rows_that_a_feature_lacks_are_left_out_of_every_pair(tmp_path):
    own = write_random_store(tmp_path / "store", images=60, captions=2, seed=1)
    add_pictures(own, "holes", np.random.default_rng(0).normal(size=(60, 5)), seed=5, bad=(4, 9, 33))
    report = rank_pairs(open_store(own.path))
    assert report.images == 57
    assert report.skipped == {"no picture in holes": 3}


def test_several_stores_are_one(tmp_path):
    whole = [
        write_random_store(tmp_path / ids, images=40, seed=seed, ids=ids, card_seed=0)
        for seed, ids in enumerate("ab")
    ]
    joined = rank_pairs("+".join(str(part.path) for part in whole))
    assert joined.images == 80


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"by": "cca"}, "linear, linear-biased, rbf, knn"),
        ({"captions": "last"}, "mean, first"),
        ({"sample": 3}, "4 or more"),
        ({"neighbours": 0}, "1 or more"),
        ({"image": ["words"]}, "one of texts"),
        ({"image": ["vision", "vision"]}, "named twice"),
        ({"split": "valid"}, "train"),
        ({"language": "fr"}, "languages en"),
        ({"image_vector": "mean"}, "has no 'mean'"),
        ({"text_vector": "cls"}, "tokens, pooled"),
    ],
)
def test_what_cannot_be_compared_is_refused(store, options, words):
    with pytest.raises(UsageError, match=words):
        rank_pairs(store, **options)


def test_an_encoder_that_says_the_same_of_everything_is_named(tmp_path):
    own = write_random_store(tmp_path / "store", images=30, seed=1)
    add_pictures(own, "flat", np.full((30, 4), 0.1), seed=5)
    with pytest.raises(UsageError, match="flat: all vectors are equal"):
        rank_pairs(open_store(own.path))


def test_the_command_prints_a_narrow_table_and_what_to_fit(store, run, tmp_path):
    plot, out = tmp_path / "pairs.svg", tmp_path / "pairs.json"
    code, shown, _ = run("curate", "pairs", store.path, "--plot", plot, "--out", out)
    assert code == 0
    assert "fit vision + words: the highest CKA" in shown
    assert max(map(len, shown.splitlines()[:-2])) <= 80
    assert PairsReport.from_json(out.read_text(), where=out).pairs[0].image == "vision"
    tree = ET.fromstring(plot.read_text())  # noqa: S314 - written here
    squares = [cell.text for cell in tree.iter("{http://www.w3.org/2000/svg}title")][1:]
    assert len(squares) == 9
    assert any(words.startswith("wide-noise and words: ") for words in squares)
    code, _, failed = run("curate", "pairs", store.path, "--plot", plot)
    assert code == 2
    assert "--overwrite" in failed


def test_json_is_the_document_alone(store, run):
    code, shown, _ = run("curate", "pairs", store.path, "--image", "vision,weak", "--json")
    assert code == 0
    assert [pair["image"] for pair in json.loads(shown)["pairs"]] == ["vision", "weak"]
    code, _, failed = run("curate", "pairs", store.path, "--image", "vision,", "--json")
    assert code == 2
    assert "--image" in failed


def test_names_are_escaped_and_negative_values_drawn(store):
    report = rank_pairs(store)
    low = report.pairs[2].model_copy(update={"image": "a<b"})
    svg = pairs_svg(report.model_copy(update={"pairs": (*report.pairs[:2], low)}))
    tree = ET.fromstring(svg)  # noqa: S314 - written here
    assert any(node.text == "a<b" for node in tree.iter("{http://www.w3.org/2000/svg}text"))

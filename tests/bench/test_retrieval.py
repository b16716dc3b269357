from __future__ import annotations

import json

import numpy as np
import pytest

from embedstore.bench import bench_retrieval, write_report
from embedstore.documents import BenchReport, EncoderCard, FitConfig
from embedstore.encode.apply import apply_head
from embedstore.errors import HeadError, UsageError
from embedstore.fit import fit_head
from embedstore.model import load_head
from embedstore.testing.stores import write_random_store


@pytest.fixture(scope="module")
def report(store, head_dir):
    return bench_retrieval(store, head_dir, split="test", device="cpu")


def slow_recall(scores: np.ndarray, right: list[set[int]], k: int) -> float:
    """Sort every line of the whole score matrix."""
    tops = [sorted(range(len(line)), key=lambda j: (-line[j], j))[:k] for line in scores]
    return float(np.mean([bool(right[i] & set(top)) for i, top in enumerate(tops)]))


def embeddings(store, head_dir, split):
    """All joint embeddings, one sample at a time, straight from the store."""
    import torch

    head = load_head(head_dir)
    splits, owners = store.images()["split"].to_pylist(), store.texts()["image"].to_pylist()
    images = [i for i, s in enumerate(splits) if s == split]
    texts = [(j, images.index(o)) for j, o in enumerate(owners) if splits[o] == split]

    def image(row):
        arrays = (torch.from_numpy(store["vision"].read(a, row, row + 1)) for a in ("tokens", "prefix"))
        return head.module.embed_image(*arrays)[0].numpy()

    def text(row):
        packed = store["words"].text_tokens([row])
        return head.module.embed_text(torch.from_numpy(packed.tokens), torch.from_numpy(packed.offsets))[
            0
        ].numpy()

    v, u = (np.stack(x).astype(np.float64) for x in ([image(i) for i in images], [text(j) for j, _ in texts]))
    return v, u, [o for _, o in texts]


def test_recall_equals_a_whole_score_matrix_sorted(report, store, head_dir) -> None:
    v, u, owner = embeddings(store, head_dir, "test")
    captions = [{j for j, o in enumerate(owner) if o == i} for i in range(len(v))]
    for k in (1, 5, 10):
        t2i, i2t = report.metrics["text_to_image"], report.metrics["image_to_text"]
        assert t2i[f"recall@{k}"].value == pytest.approx(
            slow_recall(u @ v.T, [{o} for o in owner], k), abs=1e-9
        )
        assert i2t[f"recall@{k}"].value == pytest.approx(slow_recall(v @ u.T, captions, k), abs=1e-9)


def test_the_report_says_what_it_measured_and_depends_on(report, store, head_dir) -> None:
    assert (report.images, report.texts, report.split, report.language, report.role) == (
        40,
        120,
        "test",
        "en",
        "caption",
    )
    assert report.store_fingerprint == store.fingerprint
    assert report.head_sha256 == load_head(head_dir).sha256
    assert (report.image_card, report.text_card) == (store["vision"].card, store["words"].card)
    assert (report.skipped, report.notes) == ({}, ())
    assert report.chance["text_to_image"]["recall@5"] == pytest.approx(5 / 40)
    assert report.chance["image_to_text"]["recall@1"] == pytest.approx(3 / 120)


def test_a_fitted_head_beats_chance_and_its_intervals_hold_the_values(report) -> None:
    for direction, figures in report.metrics.items():
        assert list(figures) == ["recall@1", "recall@5", "recall@10", "median_rank", "mean_rank"]
        assert figures["recall@1"].low > report.chance[direction]["recall@1"]
        for rank in ("median_rank", "mean_rank"):
            assert figures[rank].high < report.chance[direction][rank]
        assert all(f.low <= f.value <= f.high for f in figures.values())


def test_the_same_call_gives_the_same_report(report, store, head_dir) -> None:
    assert (
        bench_retrieval(store.path, str(head_dir), split="test", device="cpu").to_json() == report.to_json()
    )


def test_each_stage_tells_how_far_it_is(store, head_dir) -> None:
    seen = []
    bench_retrieval(store, head_dir, device="cpu", on_progress=lambda *at: seen.append(at))
    assert seen == [("images", 40, 40), ("texts", 120, 120), ("images ranked", 40, 40)]


def test_joint_embeddings_that_the_head_made_serve_as_its_images(report, head_dir, tmp_path) -> None:
    own = write_random_store(tmp_path / "own", images=400, captions=3, seed=5, noise=0.2)
    apply_head(head_dir, own.path, name="joint", policy="float32", device="cpu")
    stored = bench_retrieval(own.path, head_dir, image="joint", device="cpu")
    assert stored.metrics == report.metrics


def test_the_split_that_chose_the_head_is_refused_and_the_training_split_noted(store, head_dir) -> None:
    for split in ("val", None):
        with pytest.raises(UsageError, match=r"chosen on split 'val'[\s\S]*allowed: test"):
            bench_retrieval(store, head_dir, split=split, device="cpu")
    seen = bench_retrieval(store, head_dir, split="train", device="cpu")
    assert seen.notes == (
        "the head was fitted on split 'train', so split 'train' holds images that it has seen",
    )


def test_another_store_of_the_same_encoders_may_be_measured_on_any_split(store, head_dir, tmp_path) -> None:
    other = write_random_store(tmp_path / "other", images=80, captions=1, seed=5, noise=0.2)
    assert other.fingerprint != store.fingerprint
    report = bench_retrieval(other, head_dir, split="val", device="cpu")
    assert report.images == 8
    (note,) = report.notes
    assert "chosen on split 'val' of another store" in note


def test_a_store_of_another_encoder_is_refused_with_the_fields(head_dir, tmp_path) -> None:
    other = write_random_store(tmp_path / "other", images=20, seed=6)
    with pytest.raises(
        HeadError, match=r"vision\.weights_sha256: head '0+5', store '0+6'[\s\S]*--image-encoder"
    ):
        bench_retrieval(other, head_dir, device="cpu")


def test_an_unknown_split_lists_the_splits(store, head_dir) -> None:
    with pytest.raises(UsageError, match=r"no split 'dev'[\s\S]*train 320, val 40, test 40"):
        bench_retrieval(store, head_dir, split="dev", device="cpu")


def test_a_subset_of_rows_is_a_smaller_gallery(store, head_dir) -> None:
    report = bench_retrieval(store, head_dir, split="test", rows=np.arange(100), device="cpu")
    assert (report.images, report.texts) == (10, 30)


def test_one_image_is_always_found(store, head_dir) -> None:
    report = bench_retrieval(store, head_dir, split="test", rows=np.array([9]), device="cpu")
    assert report.metrics["text_to_image"]["recall@1"].value == 1.0
    assert report.chance["text_to_image"]["recall@1"] == report.chance["image_to_text"]["recall@1"] == 1.0


def test_the_mean_rank_is_that_of_the_whole_score_matrix(report, store, head_dir) -> None:
    v, u, owner = embeddings(store, head_dir, "test")
    own = (u * v[owner]).sum(1)
    assert report.metrics["text_to_image"]["mean_rank"].value == pytest.approx(
        1 + ((u @ v.T) > own[:, None] + 1e-7).sum(1).mean(), abs=0.05
    )
    assert report.chance["image_to_text"]["mean_rank"] == pytest.approx(121 / 4)


@pytest.mark.parametrize("index", ["ivf", "hnsw"])
def test_an_index_gives_its_recall_beside_the_recall_of_its_candidates(
    report, store, head_dir, index
) -> None:
    found = bench_retrieval(store, head_dir, split="test", index=index, device="cpu")
    assert found.options == {"index": index}
    for direction, figures in found.metrics.items():
        assert list(figures) == ["recall@1", "recall@5", "recall@10", "index_recall@10"]
        assert set(found.chance[direction]) == {"recall@1", "recall@5", "recall@10"}
        missed = 1 - figures["index_recall@10"].value
        assert missed < 0.5
        exact = report.metrics[direction]["recall@10"].value
        assert exact - 10 * missed - 1e-9 <= figures["recall@10"].value <= exact + 10 * missed + 1e-9


def test_an_index_of_no_known_kind_or_for_more_rows_is_refused(store, head_dir) -> None:
    with pytest.raises(UsageError, match=r"--index: unknown index[\s\S]*exact, ivf, hnsw, pq"):
        bench_retrieval(store, head_dir, split="test", index="flat", device="cpu")
    with pytest.raises(UsageError, match="too few rows for product quantisation"):
        bench_retrieval(store, head_dir, split="test", index="pq", device="cpu")


def test_a_role_without_texts_lists_the_roles(store, head_dir) -> None:
    with pytest.raises(UsageError, match=r"no text has the role 'long'[\s\S]*roles caption"):
        bench_retrieval(store, head_dir, split="test", role="long", device="cpu")


def test_an_unfitted_head_finds_about_what_chance_finds(store, tmp_path) -> None:
    config = FitConfig(
        image="vision", text="words", split="train", epochs=1, batch_size=320, width=8, lr=1e-9, min_lr=0
    )
    fit_head(store, config, tmp_path / "head", device="cpu")
    report = bench_retrieval(store, tmp_path / "head", split="test", device="cpu")
    assert report.metrics["text_to_image"]["median_rank"].value == pytest.approx(20, abs=12)


def test_a_report_is_written_whole_and_reads_back(report, tmp_path) -> None:
    file = tmp_path / "report.json"
    file.write_text("old")
    write_report(report, file)
    assert BenchReport.from_json(file.read_text(), where=file) == report
    shape = json.loads(file.read_text())
    assert shape["task"] == "retrieval"
    assert set(shape["metrics"]["text_to_image"]["recall@1"]) == {"value", "low", "high"}
    assert EncoderCard(**shape["image_card"]) == report.image_card
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(UsageError, match="cannot write the file"):
        write_report(report, tmp_path / "none" / "report.json")


def test_the_command_tells_the_recall_of_an_index(run, store, head_dir) -> None:
    command = ("bench", "retrieval", store.path, "--head", head_dir, "--device", "cpu")
    code, text, err = run(*command, "--index", "hnsw", "--role", "caption")
    assert code == 0, err
    assert "text to image index_recall@10" in text
    assert "mean_rank" not in text
    code, _, err = run(*command, "--index", "lsh")
    assert code != 0
    assert "exact, ivf, hnsw, pq" in err

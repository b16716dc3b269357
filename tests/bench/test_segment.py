from __future__ import annotations

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from embedstore.bench import TASKS
from embedstore.bench.classes import ClassName
from embedstore.bench.segment import NO_MASK, gridded, measure_segment, segment, segment_report
from embedstore.bench.segmentation import maps
from embedstore.bench.segmentation.classes import Classes
from embedstore.bench.segmentation.figures import image_ious
from embedstore.bench.segmentation.maps import places, stored_grid
from embedstore.bench.segmentation.outcomes import segment_outcomes
from embedstore.bench.segmentation.overlays import draw_overlays, spread, write_overlays
from embedstore.bench.setting import Setting
from embedstore.documents import BenchReport, QuarantinedRow
from embedstore.errors import UsageError
from embedstore.metrics.statistics import resampled, values_of
from embedstore.policies import parse_policy
from embedstore.store import FeatureWriter, create_store, open_store, plan_feature
from embedstore.store.coding.shrink import shrink_tokens
from embedstore.testing.stores import random_card, random_plan, random_tables, write_feature

NAMES = ("background", "circle", "square", "star")
SIDE = 24


def stripes(*values: int) -> np.ndarray:
    """A mask `(24, 24)` of upright stripes, one for each column of patches."""
    return np.repeat(np.array([values], np.uint8), SIDE, axis=0).repeat(SIDE // len(values), axis=1)


def png(mask: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(mask).save(out, format="PNG")
    return out.getvalue()


def jpeg() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 30, 30)).save(out, format="JPEG")
    return out.getvalue()


def masked_store(path, masks, patches, *, card=None, policy="float32", quarantined=()):
    """Images whose patches are class vectors: `patches[i] (9,)` are classes, `masks[i]` a mask or none."""
    card = card or random_card("image", width=16, tokens=9, seed=5)
    plan = random_plan(images=len(masks), captions=1, seed=5).model_copy(
        update={"classes": NAMES, "masks": True, "splits": {"test": len(masks)}}
    )
    kinds = np.zeros(len(masks), np.int64)
    pictures, words = random_tables(images=len(masks), captions=1, classes=kinds)
    pictures = pictures.set_column(
        pictures.column_names.index("split"), pictures.schema.field("split"), [["test"] * len(masks)]
    )
    rows = [{"image": i, "png": png(m)} for i, m in enumerate(masks) if m is not None]
    create_store(path, plan, images=[pictures], texts=[words], masks=rows)
    header = plan_feature(name="vision", plan=plan, card=card, policy=policy, thumbnails=16)
    tokens = np.eye(16, dtype=np.float32)[np.asarray(patches)]
    ones = np.ones((len(masks), 1, 16), np.float32)
    arrays = {"tokens": tokens, "prefix": ones, "pooled": ones[:, 0]}
    if parse_policy(policy).shrinks:
        arrays["tokens"], arrays["weights"] = shrink_tokens(parse_policy(policy), tokens, card.grid)
    writer = FeatureWriter.open(path, header)
    for unit in writer.missing_units():
        own = header.unit_rows(unit)
        part = slice(own.start, own.stop)
        writer.write_unit(
            unit,
            {name: values[part] for name, values in arrays.items()},
            quarantined=[QuarantinedRow(row=r, id="x", reason="broken") for r in quarantined if r in own],
            thumbnails=[jpeg()] * len(own),
        )
    writer.finish()
    texts = plan_feature(
        name="words", plan=plan, card=random_card("text", width=12, tokens=8, seed=5), policy=policy
    )
    sides = {"tokens": np.ones((len(masks), 12), np.float32), "pooled": np.ones((len(masks), 12), np.float32)}
    write_feature(path, texts, sides | {"lengths": np.ones(len(masks), np.int64)})
    return open_store(path)


def itself(store):
    """A setting in which a patch is its own embedding."""

    def embed_patches(tokens, prefix, pooled, weights):
        return functional.normalize(tokens.float(), dim=-1)

    head = SimpleNamespace(
        device=torch.device("cpu"), sha256="0" * 64, module=SimpleNamespace(embed_patches=embed_patches)
    )
    return Setting(
        store=store, embedder=head, image=store["vision"], text_feature=None, text_card=None, notes=()
    )


def classes(below=None, names=NAMES) -> Classes:
    things = [ClassName(label=n, words=n) for n in names if n != "background"]
    order = [*range(1, 1 + len(things)), *([0] if below is None else [])]
    place = {t.label: k for k, t in enumerate(things)} | {"background": len(things)}
    return Classes(
        foreground=tuple(things),
        has_background=True,
        words=ClassName(label="background", words="background") if below is None else None,
        below=below,
        place_of=places([place.get(n) for n in NAMES]),
        vectors=np.eye(16, dtype=np.float32)[order],
        templates=("a {}",),
        options={},
        notes=(),
    )


def report_of(store, given=None, **options) -> BenchReport:
    return segment_report(
        segment(itself(store), given or classes(), split=None, **options), split=None, seed=0
    )


def values(report, group):
    return {metric: figure.value for metric, figure in report.metrics[group].items()}


def test_patches_of_the_right_class_give_the_mask_to_the_last_pixel(tmp_path) -> None:
    store = masked_store(tmp_path / "s", [stripes(1, 2, 0), stripes(3, 3, 0)], [[1, 2, 0] * 3, [3, 3, 0] * 3])
    report = report_of(store)
    assert values(report, "foreground") == {"mean-iou": 1.0, "pixel-accuracy": 1.0}
    assert values(report, "with_background") == {
        "mean-iou": 1.0,
        "foreground-iou": 1.0,
        "pixel-accuracy": 1.0,
    }
    assert values(report, "pixels") == {"outside-crop": 0.0, "unlabelled": 0.0}
    assert (report.images, report.classes, report.skipped, report.notes) == (2, 3, {}, ())


def test_sums_by_hand_with_a_wrong_column_and_unlabelled_pixels(tmp_path) -> None:
    # Columns of 8 x 24 = 192 pixels. Image 0: the second is square but called circle. Image 1: the first is
    # unlabelled, the second background called star, the third star.
    store = masked_store(
        tmp_path / "s", [stripes(1, 2, 0), stripes(255, 0, 3)], [[1, 1, 0] * 3, [2, 3, 3] * 3]
    )
    report = report_of(store)
    # Among foreground pixels: circle 192 of 384 called, square none of 192, star all of 192.
    assert values(report, "foreground")["mean-iou"] == pytest.approx((1 / 2 + 0 + 1) / 3)
    assert values(report, "foreground")["pixel-accuracy"] == pytest.approx(2 / 3)
    # With the background, star is called in 384 pixels; background in 192 of its 384.
    assert values(report, "with_background") == pytest.approx(
        {"mean-iou": (1 / 2 + 0 + 1 / 2 + 1 / 2) / 4, "foreground-iou": 1 / 3, "pixel-accuracy": 3 / 5}
    )
    assert {k: f.value for k, f in report.per_class.items()} == {"circle": 0.5, "square": 0.0, "star": 1.0}
    assert values(report, "pixels")["unlabelled"] == pytest.approx(192 / 1152)
    # Foreground pixels are 3 classes of 192 each: t / (t (C - 1) + N) with t = 192, C = 3, N = 576.
    assert report.chance["foreground"] == pytest.approx({"mean-iou": 192 / 960, "pixel-accuracy": 1 / 3})
    assert report.chance["with_background"]["pixel-accuracy"] == 1 / 4
    for figures in report.metrics.values():
        assert all(f.low <= f.value <= f.high for f in figures.values())


def test_background_by_a_threshold_is_where_no_class_comes_near(tmp_path) -> None:
    # Class 7 is near none of the classes: its cosines are 0.
    store = masked_store(tmp_path / "s", [stripes(1, 0, 2)], [[1, 7, 2] * 3])
    report = report_of(store, classes(below=0.5))
    assert values(report, "with_background") == {
        "mean-iou": 1.0,
        "foreground-iou": 1.0,
        "pixel-accuracy": 1.0,
    }
    assert "with_background" not in report.chance
    assert report.options == {"convention": "dataset", "background": 0.5}
    assert values(report_of(store, classes(below=-0.5)), "with_background")[
        "pixel-accuracy"
    ] == pytest.approx(2 / 3)


def test_a_class_that_is_not_listed_and_one_without_pixels_do_not_count(tmp_path) -> None:
    store = masked_store(tmp_path / "s", [stripes(1, 2, 3)], [[1, 2, 1] * 3])
    report = report_of(store, classes(names=("background", "circle", "square")))
    assert values(report, "foreground") == {"mean-iou": 1.0, "pixel-accuracy": 1.0}
    assert values(report, "pixels")["unlabelled"] == pytest.approx(1 / 3)
    alone = report_of(masked_store(tmp_path / "t", [stripes(1, 1, 1)], [[1, 1, 2] * 3]))
    assert values(alone, "foreground")["mean-iou"] == pytest.approx(2 / 3)
    assert list(alone.per_class) == ["circle"]
    assert alone.notes == ("2 of 3 classes have no pixel here; the means leave them out",)


def test_images_without_a_mask_and_unreadable_ones_are_counted(tmp_path) -> None:
    masks = [stripes(1, 2, 0), None, stripes(1, 2, 0), None]
    store = masked_store(tmp_path / "s", masks, [[1, 2, 0] * 3] * 4, quarantined=[2])
    report = report_of(store)
    assert report.images == 1
    assert report.skipped == {NO_MASK: 2, "the picture could not be read": 1}
    empty = masked_store(tmp_path / "t", [None, stripes(1, 1, 1)], [[1] * 9] * 2, quarantined=[1])
    with pytest.raises(UsageError, match=r"nothing to measure[\s\S]*1: an image without a mask"):
        report_of(empty)


def test_pixels_outside_the_crop_are_counted_and_not_measured(tmp_path) -> None:
    card = random_card("image", width=16, tokens=9, seed=5)
    cropped = card.model_copy(
        update={"processor": card.processor.model_copy(update={"crop": "center=24x24"})}
    )
    mask = np.full((32, 32), 255, np.uint8)
    mask[4:28, 4:28] = stripes(1, 2, 0)
    mask[:4] = 3
    report = report_of(masked_store(tmp_path / "s", [mask], [[1, 2, 0] * 3], card=cropped))
    assert values(report, "foreground")["mean-iou"] == 1.0
    labelled = 24 * 24 + 4 * 32
    assert values(report, "pixels") == pytest.approx(
        {"outside-crop": 4 * 32 / labelled, "unlabelled": 1 - labelled / 32**2}
    )


def test_the_published_convention_by_hand(tmp_path) -> None:
    # One class a map: its own column is above 0.4 of the way from least to most, whatever the others are.
    masks = [stripes(1, 2, 0), stripes(0, 0, 3), stripes(0, 0, 0)]
    store = masked_store(tmp_path / "s", masks, [[1, 1, 0] * 3, [3, 3, 3] * 3, [1] * 9])
    report = report_of(store, convention="freeze-align")
    assert list(report.metrics) == ["per_image", "pixels"]
    # Circle: bilinear between 1 at x = 11.5 and 0 at 19.5, above 0.4 up to x = 16.3: 17 columns, of which 8
    # are circle. Square: a map of one value calls nothing. Star: likewise.
    assert values(report, "per_image") == pytest.approx(
        {"mean-iou": (8 / 17 / 2 + 0) / 2, "mean-class-iou": (8 / 17 + 0 + 0) / 3}
    )
    assert {k: f.value for k, f in report.per_class.items()} == pytest.approx(
        {"circle": 8 / 17, "square": 0, "star": 0}
    )
    assert report.options == {"convention": "freeze-align", "threshold": 0.4}
    assert report.images == 2
    # Each class has a third of the pixels and a map calls 0.6 of them: 0.2 of 1/3 + 0.4.
    assert report.chance["per_image"] == pytest.approx(
        {"mean-iou": 0.2 / (1 / 3 + 0.4), "mean-class-iou": 0.2 / (1 / 3 + 0.4)}
    )


def test_maps_of_one_image_against_pixels_of_no_class() -> None:
    maps = np.array([[[0.0, 0.3, 0.5, 1.0]], [[2.0, 2.0, 2.0, 2.0]]])
    found = image_ious(torch.from_numpy(maps), np.array([[-1, 0, 0, -1]]), threshold=0.4)
    # Called: the last two, one of which is of the class and one of none; the second true pixel is missed.
    assert (found.iou.tolist(), found.present.tolist()) == ([1 / 3, 0.0], [True, False])
    assert (found.true.tolist(), int(found.seen)) == ([2, 0], 4)


def test_outcomes_of_the_images_recompute_the_figures(tmp_path) -> None:
    rng = np.random.default_rng(2)
    masks = [stripes(0, 0, 0), *(rng.choice([0, 1, 2, 255], (SIDE, SIDE)).astype(np.uint8) for _ in range(4))]
    store = masked_store(tmp_path / "s", masks, rng.integers(0, 4, (5, 9)))
    for convention, groups in (
        ("dataset", ["foreground", "with_background"]),
        ("freeze-align", ["per_image"]),
    ):
        found = segment(itself(store), classes(), split=None, convention=convention)
        report, outcomes = segment_report(found, split=None, seed=0), segment_outcomes(found)
        assert sorted(outcomes) == sorted([*groups, "pixels"])
        for group, rows in outcomes.items():
            assert values_of(rows.sample, rows.statistics) == pytest.approx(values(report, group), abs=1e-12)
            drawn = resampled(rows.sample, rows.statistics, seed=1)
            for metric, figure in report.metrics[group].items():
                width = figure.high - figure.low
                bounds = np.nanpercentile(drawn[metric], (2.5, 97.5))
                assert bounds == pytest.approx([figure.low, figure.high], abs=0.25 * width + 1e-9)


def test_batches_make_no_difference(tmp_path, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    masks = [rng.integers(0, 4, (SIDE, SIDE), np.uint8) for _ in range(7)]
    store = masked_store(tmp_path / "s", masks, rng.integers(0, 4, (7, 9)))
    whole = report_of(store).to_json()
    monkeypatch.setattr(maps, "PICTURES_AT_ONCE", 2)
    assert report_of(store).to_json() == whole


def test_the_figures_are_those_of_a_slow_twin(tmp_path) -> None:
    rng = np.random.default_rng(1)
    masks = [rng.integers(0, 4, (SIDE, SIDE), np.uint8) for _ in range(3)]
    patches = rng.integers(0, 4, (3, 9))
    report = report_of(masked_store(tmp_path / "s", masks, patches))
    called = []
    for grid in patches.reshape(3, 3, 3):
        scores = np.stack([grid == c for c in range(4)]).astype(np.float64)
        # Bilinear by hand: along one axis, then the other, edges held.
        at = np.clip((np.arange(SIDE) + 0.5) / 8 - 0.5, 0, 2)
        low = np.minimum(at.astype(int), 1)
        share = at - low
        tall = scores[:, low] * (1 - share)[:, None] + scores[:, low + 1] * share[:, None]
        maps = tall[:, :, low] * (1 - share) + tall[:, :, low + 1] * share
        things = maps[1:]
        called.append(
            (1 + things.argmax(axis=0), np.where(maps[0] > things.max(axis=0), 0, 1 + things.argmax(axis=0)))
        )
    truth, (best, answer) = np.stack(masks), map(np.stack, zip(*called, strict=True))

    def iou(c, called, where):
        a, b = (called == c) & where, (truth == c) & where
        return (a & b).sum() / (a | b).sum()

    things = truth > 0
    wanted = np.mean([iou(c, best, things) for c in (1, 2, 3)])
    assert values(report, "foreground")["mean-iou"] == pytest.approx(wanted, abs=2e-3)
    everywhere = np.ones_like(things)
    wanted = np.mean([iou(c, answer, everywhere) for c in range(4)])
    assert values(report, "with_background")["mean-iou"] == pytest.approx(wanted, abs=2e-3)


def test_pooled_patches_keep_their_place_and_merged_ones_are_refused(tmp_path) -> None:
    card = random_card("image", width=16, tokens=9, seed=5)
    # Of 3 x 3 patches, 2 x 2 pooled ones: the last of a line is one patch alone.
    store = masked_store(tmp_path / "s", [stripes(1, 1, 2)], [[1, 1, 2] * 3], policy="pool-2x2+float32")
    assert stored_grid(store["vision"]) == (2, 2)
    report = report_of(store)
    # Centres of the pooled patches are at 8 and 24 of the reach of 32: the border is at 16, as the mask's.
    assert values(report, "foreground")["mean-iou"] == 1.0
    merged = masked_store(tmp_path / "m", [stripes(1, 1, 2)], [[1, 1, 2] * 3], policy="merge-4")
    assert stored_grid(merged["vision"]) is None
    with pytest.raises(UsageError, match=r"on a grid[\s\S]*merge-4[\s\S]*--image"):
        gridded(itself(merged), named=None)
    assert card.grid == (3, 3)


def test_where_the_head_has_seen_merged_patches_those_on_the_grid_are_taken(tmp_path) -> None:
    store = masked_store(tmp_path / "s", [stripes(1, 1, 2)], [[1, 1, 2] * 3], policy="merge-4")
    header = plan_feature(name="whole", plan=store.plan, card=store["vision"].card, policy="float32")
    tokens = np.eye(16, dtype=np.float32)[np.array([[1, 1, 2] * 3])]
    ones = np.ones((1, 1, 16), np.float32)
    write_feature(store.path, header, {"tokens": tokens, "prefix": ones, "pooled": ones[:, 0]})
    assert gridded(itself(store), named=None).image.name == "whole"
    with pytest.raises(UsageError, match="on a grid"):
        gridded(itself(store), named="vision")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    rng = np.random.default_rng(0)
    masks = [stripes(*rng.integers(0, 4, 3)) for _ in range(11)] + [None]
    grids = [[0] * 9 if m is None else m[4::8, 4::8].reshape(-1).tolist() for m in masks]
    return masked_store(tmp_path_factory.mktemp("segment") / "store", masks, grids)


def test_options_that_cannot_be_meant_are_refused(scenes, store, head_dir, encoder) -> None:
    def measure(of=scenes, **options):
        return measure_segment(of, head_dir, split=None, device="cpu", **options)

    with pytest.raises(UsageError, match=r"unknown convention[\s\S]*dataset, freeze-align"):
        measure(convention="voc")
    with pytest.raises(UsageError, match=r"rule for the background[\s\S]*nearest"):
        measure(background="nearest")
    with pytest.raises(
        UsageError, match=r"not classes of the store's masks[\s\S]*moon[\s\S]*background, circle"
    ):
        measure(classes=["moon"])
    with pytest.raises(UsageError, match="no class but the background"):
        measure(classes=["background"])
    with pytest.raises(UsageError, match="no masks"):
        measure_segment(store, head_dir, split="test", device="cpu")


def test_the_command_measures_and_draws(scenes, head_dir, encoder, run, tmp_path) -> None:
    folder, out = tmp_path / "drawn", tmp_path / "report.json"
    ids, words = tmp_path / "some.txt", tmp_path / "classes.txt"
    ids.write_text("\n".join(scenes.images(["id"])["id"].to_pylist()[:6]))
    words.write_text("circle\tround thing\nsquare\nstar\n")
    code, printed, told = run(
        *("bench", "segment", scenes.path, "--head", head_dir, "--split", "all", "--device", "cpu"),
        *("--classes", words, "--overlays", folder, "--overlay-count", "3", "--out", out),
    )
    assert (code, TASKS.load("segment")) == (0, measure_segment)
    assert "segment: 11 images, 3 classes, all rows" in printed
    assert "with background foreground-iou" in printed
    assert "overlays: 3 in" in printed
    assert "1 rows left out: an image without a mask" in told
    assert max(map(len, printed.splitlines())) <= 80 + len(str(tmp_path))
    assert encoder.seen[-4:] == [
        "a photo of a round thing.",
        "a photo of a square.",
        "a photo of a star.",
        "a photo of a background.",
    ]
    report = BenchReport.from_json(out.read_text(), where=out)
    assert (report.options["background"], report.options["prompts"]) == ("background", 4)
    drawn = sorted(folder.iterdir())
    assert len(drawn) == 3
    with Image.open(drawn[0]) as sheet:
        assert sheet.width == 3 * SIDE + 12
    code, printed, _ = run(
        *("bench", "segment", scenes.path, "--head", head_dir, "--split", "all", "--device", "cpu", "--json"),
        *("--convention", "freeze-align", "--classes", words, "--rows", ids),
    )
    assert code == 0
    assert set(json.loads(printed)["metrics"]["per_image"]) == {"mean-iou", "mean-class-iou"}
    assert json.loads(printed)["images"] <= 6
    assert json.loads(printed)["rows"]["rows"] == 6
    code, _, told = run("bench", "segment", scenes.path, "--head", head_dir, "--background", "2")
    assert code == 2
    assert "not a rule for the background" in told


def test_overlays_colour_the_classes_and_leave_the_background(scenes, tmp_path) -> None:
    found = segment(itself(scenes), classes(), split=None)
    assert np.isnan(found.image_iou).sum() == (found.foreground.true.sum(axis=1) == 0).sum()
    order = spread(found, 4)
    assert np.all(np.diff(found.image_iou[order]) >= 0)
    assert len(spread(found, 99)) == np.isfinite(found.image_iou).sum()
    (overlay,) = draw_overlays(found, order[:1])
    assert overlay.row == found.rows[order[0]]
    assert np.array_equal(overlay.truth, overlay.predicted)
    red = overlay.picture[0, 0]
    painted = np.asarray(overlay.over(overlay.truth))
    behind = overlay.truth == overlay.background
    assert np.array_equal(painted[behind], overlay.picture[behind])
    assert not (painted[~behind] == overlay.picture[~behind]).all(axis=1).any()
    assert red[0] > 150 > red[1]
    assert len(write_overlays(found, tmp_path / "a" / "b", count=2)) == 2
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write the overlays"):
        write_overlays(found, tmp_path / "file", count=2)

"""Pictures and masks in the published layouts, written by Pillow as the data sets' own tools do."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from embedstore.errors import SourceError, UnreadableImage, UsageError
from embedstore.sources import open_source
from embedstore.sources.base import UNLABELLED
from embedstore.sources.class_list import read_class_list
from embedstore.sources.segmentation import NO_MASK, NO_PICTURE
from embedstore.testing.sources import SourceContract

VOC = ["background", "aeroplane", "bicycle", "bird"]


def save(path, values, palette=None, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.fromarray(np.asarray(values, dtype=np.uint8))
    if palette is not None:
        mask.putpalette(palette)
    mask.save(path, **more)


PALETTE = [value for colour in range(256) for value in (colour, 255 - colour, colour // 2)]
VALUES = np.array([[0, 0, 1, 1, 255, 255], [0, 0, 1, 1, 3, 3], [0, 2, 2, 2, 3, 3], [0, 2, 2, 2, 3, 3]])


@pytest.fixture
def voc(tmp_path, draw):
    draw(tmp_path / "JPEGImages", "2007_000032.jpg", "2007_000033.jpg", "2007_000039.jpg")
    for name in ("2007_000032", "2007_000033"):
        save(tmp_path / "SegmentationClass" / f"{name}.png", VALUES, PALETTE)
    (tmp_path / "classes.txt").write_text("\n".join(VOC) + "\n\n")
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000033\n")
    (lists / "val.txt").write_text("2007_000032\r\n\n")
    return tmp_path


class TestContract(SourceContract):
    @pytest.fixture
    def source(self, voc):
        return open_source(f"segmentation:{voc}")


def test_a_palette_mask_gives_its_numbers_not_its_colours(voc):
    source = open_source(f"segmentation:{voc}")
    assert [source[i].id for i in range(len(source))] == ["2007_000032.jpg", "2007_000033.jpg"]
    assert source.classes == tuple(VOC)
    mask = source[0].mask.open()
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, VALUES)
    assert mask[0, 4] == UNLABELLED
    assert source[0].split is None
    assert source.dropped == {NO_MASK: 1, NO_PICTURE: 0}


def test_lists_are_the_splits(voc):
    lists = "ImageSets/Segmentation/train.txt,ImageSets/Segmentation/val.txt"
    source = open_source(f"segmentation:{voc}?lists={lists}")
    assert [(source[i].id, source[i].split) for i in range(2)] == [
        ("2007_000032.jpg", "val"),
        ("2007_000033.jpg", "train"),
    ]
    assert len(open_source(f"segmentation:{voc}?lists=ImageSets/Segmentation/val.txt")) == 1


@pytest.mark.parametrize(
    ("text", "what", "where"),
    [
        ("2007_000039\n", "no mask of this name", "val.txt, line 1"),
        ("2007_000032\n../x\n", "no picture of this name", "val.txt, line 2"),
        ("2007_000032\n2007_000032\n", "a name stands twice", "val.txt, line 2"),
    ],
)
def test_lists_that_are_refused(voc, text, what, where):
    (voc / "ImageSets" / "Segmentation" / "val.txt").write_text(text)
    with pytest.raises(SourceError, match=what) as caught:
        open_source(f"segmentation:{voc}?lists=ImageSets/Segmentation/val.txt")
    assert where in str(caught.value)


def test_ade20k(tmp_path, draw):
    # Values from 1; 0 is what nobody labelled. The split is the folder.
    draw(tmp_path, "images/training/ADE_train_1.jpg", "images/validation/ADE_val_1.jpg")
    save(tmp_path / "annotations/training/ADE_train_1.png", np.full((4, 6), 2))
    save(tmp_path / "annotations/validation/ADE_val_1.png", np.arange(24).reshape(4, 6) % 3)
    (tmp_path / "objectInfo150.txt").write_text(
        "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.1576\t11664\t1172\t1\twall\n2\t0.1072\t6046\t612\t1\t"
        "building, edifice\n"
    )
    source = open_source(f"segmentation:{tmp_path}?ignore=0,255")
    assert source.classes == ("wall", "building")
    assert [source[i].split for i in range(2)] == ["training", "validation"]
    np.testing.assert_array_equal(source[1].mask.open().ravel()[:4], [UNLABELLED, 0, 1, UNLABELLED])
    without = open_source(f"segmentation:{tmp_path}")
    with pytest.raises(SourceError, match="does not name") as caught:
        without[1].mask.open()
    assert "found: 0" in str(caught.value)
    assert "?ignore=0,255" in str(caught.value)
    assert "validation/ADE_val_1.png" in str(caught.value)


def test_cityscapes_by_its_suffixes(tmp_path, draw):
    draw(tmp_path, "leftImg8bit/val/frankfurt/frankfurt_0_leftImg8bit.png")
    save(tmp_path / "gtFine/val/frankfurt/frankfurt_0_gtFine_labelTrainIds.png", np.full((4, 6), 1))
    save(tmp_path / "gtFine/val/frankfurt/frankfurt_0_gtFine_instanceIds.png", np.full((4, 6), 1))
    (tmp_path / "classes.json").write_text(json.dumps(["road", "sidewalk"]))
    suffixes = "image_suffix=_leftImg8bit&mask_suffix=_gtFine_labelTrainIds"
    source = open_source(f"segmentation:{tmp_path}?{suffixes}")
    assert (source[0].split, source[0].mask.open().max()) == ("val", 1)
    assert source.dropped["files of other names"] == 1
    with pytest.raises(SourceError, match="no picture has a mask of the same name") as caught:
        open_source(f"segmentation:{tmp_path}")
    assert "image_suffix" in str(caught.value)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_is_turned_as_its_picture(tmp_path, orientation):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2, (8, 16), dtype=np.uint8)
    picture = Image.fromarray(np.repeat(255 * values[:, :, None], 3, axis=2))
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "images").mkdir()
    picture.save(tmp_path / "images" / "a.png", exif=exif)
    save(tmp_path / "masks" / "a.png", values)
    (tmp_path / "classes.txt").write_text("background\nthing\n")
    sample = open_source(f"segmentation:{tmp_path}")[0]
    seen = np.asarray(sample.picture.open())[:, :, 0] // 255
    np.testing.assert_array_equal(sample.mask.open(), seen)
    if orientation >= 5:
        save(tmp_path / "masks" / "a.png", seen)
        np.testing.assert_array_equal(sample.mask.open(), seen)


def test_masks_that_cannot_be_used(voc):
    source = open_source(f"segmentation:{voc}")
    path = voc / "SegmentationClass" / "2007_000032.png"
    cases = [
        (lambda: save(path, VALUES[:3]), "a mask of another size than its picture"),
        (lambda: Image.new("RGB", (6, 4)).save(path), "not 8 bits a pixel of grey or palette: mode RGB"),
        (lambda: Image.new("I;16", (6, 4)).save(path), "not 8 bits a pixel of grey or palette"),
        (lambda: path.write_bytes(path.read_bytes()[:40]), "truncated file|damaged file"),
        (lambda: path.write_bytes(b""), "empty file"),
        (lambda: save(path, np.full((4, 6), 17)), "a value of a mask that the list of classes does not name"),
        (path.unlink, "file not found"),
    ]
    for spoil, what in cases:
        spoil()
        with pytest.raises(SourceError, match=what) as caught:
            source[0].mask.open()
        assert "2007_000032.png" in str(caught.value)
        assert str(voc) not in str(caught.value)


def test_a_broken_picture_is_quarantined_and_its_mask_kept(voc):
    (voc / "JPEGImages" / "2007_000032.jpg").write_bytes(b"no picture")
    sample = open_source(f"segmentation:{voc}")[0]
    with pytest.raises(UnreadableImage):
        sample.picture.open()
    np.testing.assert_array_equal(sample.mask.open(), VALUES)


def test_a_mask_of_one_bit(tmp_path, draw):
    draw(tmp_path / "images", "a.png")
    (tmp_path / "masks").mkdir()
    Image.fromarray(VALUES == 1).save(tmp_path / "masks" / "a.png")
    (tmp_path / "classes.txt").write_text("background\nthing\n")
    np.testing.assert_array_equal(open_source(f"segmentation:{tmp_path}")[0].mask.open(), VALUES == 1)


def test_other_masks_make_another_source(voc):
    before = open_source(f"segmentation:{voc}").identity
    assert before == open_source(f"segmentation:{voc}").identity
    save(voc / "SegmentationClass" / "2007_000032.png", np.arange(24).reshape(4, 6) % 4)
    assert open_source(f"segmentation:{voc}").identity != before


def test_values_that_mean_other_classes_make_another_source(voc):
    names = "\n".join(f"{{}}: {name}" for name in VOC)
    (voc / "classes.txt").write_text(names.format(*range(len(VOC))))
    before = open_source(f"segmentation:{voc}")
    (voc / "classes.txt").write_text(names.format(*range(1, 1 + len(VOC))))
    after = open_source(f"segmentation:{voc}")
    assert before.classes == after.classes
    assert before.identity != after.identity


def test_what_is_refused_when_it_is_opened(voc, draw, tmp_path_factory):
    with pytest.raises(SourceError, match="no list of classes") as caught:
        open_source(f"segmentation:{voc}?classes=names.txt")
    assert "names.txt" in str(caught.value)
    with pytest.raises(SourceError, match="no folder of masks"):
        open_source(f"segmentation:{voc}?masks=nowhere")
    with pytest.raises(UsageError, match="bad value of option 'ignore'"):
        open_source(f"segmentation:{voc}?ignore=300")
    with pytest.raises(SourceError, match="there is no such list"):
        open_source(f"segmentation:{voc}?lists=x.txt")
    (voc / "classes.txt").write_text("\n".join(f"class {k}" for k in range(300)))
    with pytest.raises(SourceError, match="more classes than a mask of 8 bits can hold"):
        open_source(f"segmentation:{voc}")
    (voc / "classes.txt").write_text("\n".join(VOC))
    outside = draw(tmp_path_factory.mktemp("outside"), "x.png")
    (voc / "SegmentationClass" / "2007_000039.png").symlink_to(outside / "x.png")
    source = open_source(f"segmentation:{voc}")
    assert (len(source), source.dropped["links that leave the folder"]) == (2, 1)
    draw(voc / "JPEGImages", "2007_000032.png")
    with pytest.raises(SourceError, match="two files of one name"):
        open_source(f"segmentation:{voc}")


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("a.txt", "road\nside walk\n", {0: "road", 1: "side walk"}),
        ("a.txt", "0: unlabeled\n2: person, individual\n", {0: "unlabeled", 2: "person"}),
        ("a.txt", "7\troad\n3 sky\n", {3: "sky", 7: "road"}),
        ("a.txt", "1,wall\n2,door\n", {1: "wall", 2: "door"}),
        ("a.txt", "1: screen, door\n2: screen, silver\n", {1: "screen, door", 2: "screen, silver"}),
        ("a.csv", "id,name\n4,cat\n2,dog\n", {2: "dog", 4: "cat"}),
        ("a.json", '["cat", "dog"]', {0: "cat", 1: "dog"}),
        ("a.json", '{"3": "cat", "1": "dog"}', {1: "dog", 3: "cat"}),
        ("a.json", '[{"id": 5, "name": "cat", "color": [1, 2, 3]}]', {5: "cat"}),
    ],
)
def test_lists_of_classes(tmp_path, name, text, wanted):
    (tmp_path / name).write_text(text)
    assert list(read_class_list(tmp_path / name).items()) == list(wanted.items())


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("a.txt", "", "no classes in this file"),
        ("a.txt", "cat\n\ndog\n", "a blank line between the classes"),
        ("a.txt", "1: cat\n1: dog\n", "a value stands twice"),
        ("a.txt", "cat\ncat\n", "a class name stands twice"),
        ("a.txt", "cat\nd\0g\n", "a NUL character"),
        ("a.csv", "id,name\nx,cat\n", "not a value and a name"),
        ("a.json", "3", "neither a list of classes nor an object"),
        ("a.json", "[3]", "not a JSON object"),
        ("a.json", '[{"id": -1, "name": "cat"}]', "no whole number"),
        ("a.json", '{"a": "cat"}', "no whole number"),
        ("a.json", '[{"id": 1, "name": " "}]', "an empty class name"),
    ],
)
def test_lists_of_classes_that_are_refused(tmp_path, name, text, what):
    (tmp_path / name).write_text(text)
    with pytest.raises(SourceError, match=what) as caught:
        read_class_list(tmp_path / name)
    assert name in str(caught.value)

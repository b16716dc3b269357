"""COCO captions json, written by hand in the published layout."""

from __future__ import annotations

import json

import pytest

from embedstore.errors import SourceError, UnreadableImage
from embedstore.sources import open_source
from embedstore.sources.coco import UNLISTED
from embedstore.testing.sources import SourceContract

INFO = {"description": "COCO 2017 Dataset", "year": 2017, "contributor": "COCO Consortium"}
LICENSES = [{"url": "http://creativecommons.org/licenses/by/2.0/", "id": 4, "name": "Attribution License"}]


def image(number, name=None):
    return {
        "license": 4,
        "file_name": name or f"{number:012d}.jpg",
        "coco_url": f"http://images.cocodataset.org/val2017/{number:012d}.jpg",
        "height": 4,
        "width": 6,
        "date_captured": "2013-11-14 17:02:52",
        "id": number,
    }


def annotation(number, image_id, caption):
    return {"image_id": image_id, "id": number, "caption": caption}


def dump(path, images, annotations, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {"info": INFO, "licenses": LICENSES, "images": images, "annotations": annotations, **more}
    path.write_text(json.dumps(whole), encoding="utf-8")
    return path


IMAGES = [image(397133), image(37777), image(252219), image(87038)]
ANNOTATIONS = [
    annotation(38, 252219, "A woman stands in the dining area at the table.\n"),
    annotation(182, 37777, "A big burly grizzly bear is »shown« with grass."),
    annotation(479, 252219, "Three persons on a street."),
    annotation(480, 397133, "A man is in a kitchen making pizzas."),
    annotation(481, 252219, "A man next to a woman."),
    annotation(482, 397133, "  "),
]


@pytest.fixture
def coco(tmp_path, draw):
    draw(tmp_path / "coco" / "val2017", *(i["file_name"] for i in IMAGES))
    return dump(tmp_path / "coco" / "annotations" / "captions_val2017.json", IMAGES, ANNOTATIONS)


class TestContract(SourceContract):
    @pytest.fixture
    def source(self, coco):
        return open_source(f"coco:{coco}")


def texts(source):
    return {source[i].id: [c.text for c in source[i].captions] for i in range(len(source))}


def test_captions_go_to_their_images_in_the_order_of_the_file(coco):
    source = open_source(f"coco:{coco}")
    assert texts(source) == {
        "000000397133.jpg": ["A man is in a kitchen making pizzas."],
        "000000037777.jpg": ["A big burly grizzly bear is »shown« with grass."],
        "000000252219.jpg": [
            "A woman stands in the dining area at the table.",
            "Three persons on a street.",
            "A man next to a woman.",
        ],
        "000000087038.jpg": [],
    }
    assert {source[i].split for i in range(4)} == {"val"}
    assert source[2].picture.open().size == (6, 4)
    assert source.identity == {"kind": "coco", "language": "en"}
    assert source.dropped == {UNLISTED: 0, "empty captions": 1}
    assert source.shuffled


def test_the_library_of_coco_sees_the_same(coco):
    # What pycocotools does to index a file: annotations by image, in the order of the file.
    whole = json.loads(coco.read_text())
    by_image = {i["id"]: [] for i in whole["images"]}
    for one in whole["annotations"]:
        by_image[one["image_id"]].append(one["caption"].strip())
    wanted = {i["file_name"]: [c for c in by_image[i["id"]] if c] for i in whole["images"]}
    assert texts(open_source(f"coco:{coco}")) == wanted


def test_the_kind_is_detected_and_the_folder_of_coco_is_read_whole(coco, draw, tmp_path):
    train = [image(9, "000000000009.jpg")]
    dump(coco.parent / "captions_train2017.json", train, [annotation(1, 9, "Closeup of bins of food.")])
    draw(tmp_path / "coco" / "train2017", "000000000009.jpg")
    (coco.parent / "instances_val2017.json").write_text("{}")
    source = open_source(f"coco:{tmp_path / 'coco'}")
    assert [source[i].split for i in range(len(source))] == ["train", *["val"] * 4]
    assert source[0].picture.open().size == (6, 4)
    assert len(open_source(str(coco))) == 4


@pytest.mark.parametrize(
    ("file", "where", "root"),
    [
        ("captions_val2014.json", "val2014", None),
        ("captions_val2014.json", "images/val2014", None),
        ("annotations/captions_val2014.json", "images/val2014", None),
        ("annotations/captions_val2014.json", ".", None),
        ("any.json", "images", None),
        ("any.json", "elsewhere/val", "elsewhere/val"),
        ("captions_val2014.json", "elsewhere/val2014", "elsewhere"),
    ],
)
def test_where_pictures_are_looked_for(tmp_path, draw, file, where, root):
    path = dump(tmp_path / "d" / file, [image(5)], [annotation(1, 5, "a text")])
    draw(tmp_path / "d" / where, "000000000005.jpg")
    source = open_source(f"coco:{path}", image_root=root and tmp_path / "d" / root)
    assert source[0].picture.open().size == (6, 4)


def test_the_folder_above_is_looked_into_from_inside(coco, monkeypatch):
    monkeypatch.chdir(coco.parent)
    assert open_source("captions_val2017.json")[0].picture.open().size == (6, 4)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("captions_train2014.json", "train"),
        ("nocaps_val_4500_captions.json", "val"),
        ("captions_minival2014.json", "minival"),
        ("trainer_captions.json", None),
        ("captions_val2017.json?split=dev", "dev"),
    ],
)
def test_the_split_is_the_word_in_the_name(tmp_path, draw, name, split):
    path = dump(tmp_path / name.partition("?")[0], [image(5)], [annotation(1, 5, "a text")])
    draw(tmp_path, "000000000005.jpg")
    source = open_source(f"coco:{path.parent / name}")
    assert source[0].split == split
    assert source.identity.get("split") == ("dev" if "?" in name else None)


def test_ids_that_are_text_and_another_language(tmp_path, draw):
    # nocaps and STAIR captions: the same layout, other ids, another language.
    path = dump(tmp_path / "stair_captions.json", [{"id": "7a", "file_name": "x/7a.jpg"}], [])
    whole = json.loads(path.read_text())
    whole["annotations"] = [{"id": 1, "image_id": "7a", "caption": "犬が走る"}]
    path.write_text(json.dumps(whole))
    draw(tmp_path, "x/7a.jpg")
    source = open_source(f"coco:{path}", language="ja")
    assert (source[0].id, source[0].captions[0].language) == ("x/7a.jpg", "ja")


def test_a_missing_picture_is_a_sample_that_says_so_when_it_is_opened(coco, tmp_path):
    (tmp_path / "coco" / "val2017" / "000000037777.jpg").unlink()
    source = open_source(f"coco:{coco}")
    assert len(source) == 4
    with pytest.raises(UnreadableImage, match="file not found"):
        source[1].picture.open()


def test_no_picture_at_all_is_the_wrong_folder(tmp_path):
    path = dump(tmp_path / "captions_val2017.json", [image(5)], [])
    with pytest.raises(SourceError, match="not one of the pictures is there") as caught:
        open_source(f"coco:{path}")
    assert "images/val2017/000000000005.jpg" in str(caught.value)
    assert "--image-root" in str(caught.value)


def test_captions_without_an_image_are_left_out_and_counted(coco):
    dump(coco, IMAGES, [*ANNOTATIONS, annotation(900, 11, "whose?"), annotation(901, 12, "whose?")])
    source = open_source(f"coco:{coco}")
    assert source.dropped[UNLISTED] == 2
    assert sum(len(t) for t in texts(source).values()) == 5


@pytest.mark.parametrize(
    ("images", "annotations", "what", "where"),
    [
        ([image(5), image(5, "b.jpg")], [], "an image id stands twice", "images[1]"),
        ([image(5), image(6, "000000000005.jpg")], [], "one picture is listed twice", "images[1]"),
        ([{"file_name": "a.jpg"}], [], "no 'id'", "images[0]"),
        ([{"id": True, "file_name": "a.jpg"}], [], "'id' is not text", "images[0]"),
        ([{"id": 1, "file_name": 7}], [], "'file_name' is not text", "images[0]"),
        ([{"id": 1, "file_name": "a\0b.jpg"}], [], "a NUL character in 'file_name'", "images[0]"),
        ([{"id": 1, "file_name": "../a.jpg"}], [], "a path leaves the image folder", "images[0]"),
        ([{"id": 1, "file_name": "/etc/a.jpg"}], [], "an absolute path outside --image-root", "images[0]"),
        ([{"id": 1, "file_name": "http://h/a.jpg"}], [], "named by a URL", "images[0]"),
        ([{"id": 1, "file_name": "  "}], [], "no image in this row", "images[0]"),
        (["a.jpg"], [], "not a JSON object", "images[0]"),
        ([image(5)], [{"image_id": 5, "id": 1}], "no 'caption'", "annotations[0]"),
        ([image(5)], [annotation(1, 5, ["a"])], "'caption' is not text", "annotations[0]"),
        ([image(5)], [annotation(1, None, "a")], "'image_id' is not text", "annotations[0]"),
        ([image(5)], [annotation(1, 5, "a\ud800b")], "a lone surrogate in 'caption'", "annotations[0]"),
        ([], [], "'images' is empty, or no list", "captions_val2017.json"),
        ({"id": 1}, [], "not a JSON array", "captions_val2017.json, images"),
        (
            [image(5)],
            {"image_id": 5, "caption": "a"},
            "not a JSON array",
            "captions_val2017.json, annotations",
        ),
        ([image(5)], None, "not a JSON array", "found: None"),
    ],
)
def test_files_that_are_refused(tmp_path, images, annotations, what, where):
    path = dump(tmp_path / "captions_val2017.json", images, annotations)
    with pytest.raises(SourceError) as caught:
        open_source(f"coco:{path}")
    assert what in str(caught.value)
    assert where in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_other_json(tmp_path):
    (tmp_path / "panoptic.json").write_text('{"images": [{"id": 1}], "categories": []}')
    with pytest.raises(SourceError, match="no 'file_name'"):
        open_source(f"coco:{tmp_path / 'panoptic.json'}")
    (tmp_path / "other.json").write_text('{"a": 1}')
    with pytest.raises(SourceError, match="no 'images'") as caught:
        open_source(f"coco:{tmp_path / 'other.json'}")
    assert "annotations" in str(caught.value)
    with pytest.raises(SourceError, match="cannot tell what kind of source this is"):
        open_source(str(tmp_path / "other.json"))
    with pytest.raises(SourceError, match="no captions_"):
        open_source(f"coco:{tmp_path}")
    with pytest.raises(SourceError, match="no such file or folder"):
        open_source(f"coco:{tmp_path / 'nowhere.json'}")

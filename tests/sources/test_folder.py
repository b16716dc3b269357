"""Folders: labels from sub-folders, flat folders, side-car files, and what is left out."""

from __future__ import annotations

import io
import json
import random

import numpy as np
import pytest
from PIL import Image

from embedstore.errors import SourceError, UnreadableImage
from embedstore.sources.folder import FolderSource
from embedstore.testing.sources import SourceContract


def png(colour="red"):
    out = io.BytesIO()
    Image.new("RGB", (6, 4), colour).save(out, "PNG")
    return out.getvalue()


def noise():
    out = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png())
    return folder


def ids(source):
    return [source[i].id for i in range(len(source))]


def labels(source):
    return [source[i].label for i in range(len(source))]


class TestContractOfLabels(SourceContract):
    @pytest.fixture
    def source(self, tmp_path):
        fill(tmp_path, "cat/b.png", "cat/deep/a.PNG", "a dog/ü.jpeg", "top.webp")
        (tmp_path / "cat" / "broken.jpg").touch()
        return FolderSource(tmp_path)


class TestContractOfSideCars(SourceContract):
    @pytest.fixture
    def source(self, tmp_path):
        fill(tmp_path, "a.png", "b.png", "c.png")
        (tmp_path / "captions.csv").write_text(
            "image,caption,split,id\na.png,x,train,1\nb.png,y,test,2\na.png,z,,1\n"
        )
        return FolderSource(tmp_path)


def test_sub_folders_are_labels(tmp_path):
    fill(tmp_path, "cat/b.png", "cat/deep/a.PNG", "a dog/ü.jpeg", "Zebra/1.tiff", "top.webp")
    source = FolderSource(tmp_path)
    assert ids(source) == ["Zebra/1.tiff", "a dog/ü.jpeg", "cat/b.png", "cat/deep/a.PNG", "top.webp"]
    assert labels(source) == ["Zebra", "a dog", "cat", "cat", None]
    assert source.classes == ("Zebra", "a dog", "cat")
    assert source.shuffled
    assert source.identity == {"kind": "folder", "language": "en"}


def test_flat_folders_have_no_labels(tmp_path):
    source = FolderSource(fill(tmp_path, "b.png", "a.jpg"))
    assert ids(source) == ["a.jpg", "b.png"]
    assert (labels(source), source.classes) == ([None, None], ())


def test_a_folder_of_images_is_flat(tmp_path):
    source = FolderSource(fill(tmp_path, "images/b.png", "images/x/a.jpg"))
    assert (labels(source), source.classes) == ([None, None], ())
    assert labels(FolderSource(fill(tmp_path, "cat/c.png"))) == ["cat", "images", "images"]


def test_what_is_passed_over_and_counted(tmp_path):
    fill(tmp_path, "in/a.png", "in/b.png", "in/.hidden.png", "in/.cache/c.png", "out/d.png", "out/e.png")
    root = tmp_path / "in"
    (root / "notes.txt").touch()
    (root / "README").touch()
    (root / "inside.png").symlink_to(root / "a.png")
    (root / "outside.png").symlink_to(tmp_path / "out" / "d.png")
    (root / "folder").symlink_to(tmp_path / "out")
    (root / "loop").symlink_to(root)
    (root / "dangling.png").symlink_to(root / "gone.png")
    (root / "itself.png").symlink_to(root / "itself.png")
    source = FolderSource(root)
    assert ids(source) == ["a.png", "b.png", "dangling.png", "inside.png"]
    assert source.dropped == {"other files": 2, "links that leave the folder": 2, "links to folders": 2}
    assert ids(FolderSource(root / "loop")) == ids(source)


def test_folders_without_end_are_refused(tmp_path):
    fill(tmp_path, "a.png", "/".join(["d"] * 32) + "/b.png")
    assert len(FolderSource(tmp_path)) == 2
    fill(tmp_path, "/".join(["d"] * 33) + "/c.png")
    with pytest.raises(SourceError, match=r"folders lie too deep in each other\n  allowed: 32"):
        FolderSource(tmp_path)


@pytest.mark.parametrize("names", [[], ["notes.txt", ".hidden.png"]])
def test_a_folder_without_pictures(tmp_path, names):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(SourceError, match="no pictures in this folder") as caught:
        FolderSource(tmp_path)
    assert ("1 other files" if names else "nothing") in str(caught.value)
    assert ".jpeg" in str(caught.value)


def test_no_folder(tmp_path):
    with pytest.raises(SourceError, match="no such folder"):
        FolderSource(tmp_path / "nowhere")


def test_a_hundred_pictures_with_five_broken_ones(tmp_path):
    names = [f"{i:03d}.png" for i in range(100)]
    fill(tmp_path, *names)
    whole = noise()
    broken = {
        "007.png": (b"", "empty file"),
        "023.png": (whole[: len(whole) // 2], "truncated file"),
        "024.png": (b"<html>not found</html>", "not an image of a known format"),
        "077.png": (whole[:40] + b"\0\0\0\0" + whole[44:], "damaged file"),
        "099.png": (None, "not a file"),
    }
    for name, (data, _) in broken.items():
        (tmp_path / name).unlink()
        if data is None:
            (tmp_path / name).symlink_to(tmp_path / "000.png")
        else:
            (tmp_path / name).write_bytes(data)
    source = FolderSource(tmp_path)
    assert ids(source) == names
    (tmp_path / "099.png").unlink()
    (tmp_path / "099.png").mkdir()
    reasons = {}
    for i in range(100):
        try:
            source[i].picture.open()
        except UnreadableImage as why:
            reasons[source[i].id] = why.problem
    assert reasons == {name: why for name, (_, why) in broken.items()}


def test_the_order_does_not_depend_on_the_disk(tmp_path):
    names = [f"{c}/{i}.png" for c in "xyz" for i in range(7)]
    random.Random(0).shuffle(names)  # noqa: S311 - no secret
    assert ids(FolderSource(fill(tmp_path, *names))) == sorted(names)


# Side-car files


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_side_car_adds_captions_splits_and_ids(tmp_path, ending):
    fill(tmp_path, "cat/a.png", "dog/b.png", "dog/c.png")
    records = [
        {
            "image": "dog/b.png",
            "caption": "one",
            "split": "test",
            "language": "de",
            "role": "long",
            "id": "7",
        },
        {"image": "cat/a.png", "caption": " two ", "split": "", "language": "", "role": "", "id": "8"},
        {"image": "dog/b.png", "caption": "", "split": "test", "language": "", "role": "", "id": "7"},
        {"image": "dog/b.png", "caption": "three", "split": "", "language": "", "role": "", "id": "7"},
    ]
    text = "".join(json.dumps(r) + "\n" for r in records)
    if ending == "csv":
        text = "\n".join([",".join(records[0]), *(",".join(r.values()) for r in records)])
    (tmp_path / f"captions.{ending}").write_text(text)
    source = FolderSource(tmp_path)
    assert ids(source) == ["8", "7", "dog/c.png"]
    assert labels(source) == ["cat", "dog", "dog"]
    assert [source[i].split for i in range(3)] == [None, "test", None]
    assert [[(c.text, c.language, c.role) for c in source[i].captions] for i in range(3)] == [
        [("two", "en", "caption")],
        [("one", "de", "long"), ("three", "en", "caption")],
        [],
    ]
    assert source.dropped == {"empty captions": 1}


def test_a_side_car_beside_a_folder_of_images(tmp_path):
    fill(tmp_path, "images/a.png", "images/b.png")
    (tmp_path / "captions.csv").write_text("file,caption,label\na.png,x,cat\nimages/b.png,y,dog\n")
    source = FolderSource(tmp_path, columns={"image": "file"}, language="fr")
    assert ids(source) == ["images/a.png", "images/b.png"]
    assert labels(source) == ["cat", "dog"]
    assert source.classes == ("cat", "dog")
    assert source[0].captions[0].language == "fr"
    assert source.identity == {"kind": "folder", "language": "fr", "column image": "file"}


def test_rows_that_name_unknown_pictures(tmp_path):
    fill(tmp_path, "a.png")
    (tmp_path / "captions.csv").write_text("image,caption\n" + "".join(f"{n}.png,x\n" for n in "abcdeb"))
    with pytest.raises(SourceError, match="4 of the pictures it names are not in the folder") as caught:
        FolderSource(tmp_path)
    assert "b.png, c.png, d.png, …" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("caption\nx\n", "no column image"),
        ("image,label\ncat/a.png,dog\n", "a label contradicts the picture's sub-folder"),
        ("image,id\ncat/a.png,cat/b.png\n", "an id that is the name of another picture"),
        ("image,caption\n,x\n", "no image in this row"),
    ],
)
def test_side_car_mistakes(tmp_path, text, what):
    fill(tmp_path, "cat/a.png", "cat/b.png")
    (tmp_path / "captions.csv").write_text(text)
    with pytest.raises(SourceError, match=what) as caught:
        FolderSource(tmp_path)
    assert "captions.csv" in str(caught.value)


def test_a_label_that_agrees_and_one_that_is_not_read(tmp_path):
    fill(tmp_path, "cat/a.png", "cat/b.png")
    (tmp_path / "captions.csv").write_text("image,label\ncat/a.png,cat\n")
    assert FolderSource(tmp_path).classes == ("cat",)
    (tmp_path / "captions.csv").write_text("image,label\ncat/a.png,dog\n")
    assert FolderSource(tmp_path, columns={"label": ""}).classes == ("cat",)


def test_two_side_cars_and_columns_without_one(tmp_path):
    fill(tmp_path, "a.png")
    with pytest.raises(SourceError, match="columns are named but there is no side-car"):
        FolderSource(tmp_path, columns={"caption": "TITLE"})
    (tmp_path / "captions.csv").write_text("image,caption\na.png,x\n")
    (tmp_path / "captions.jsonl").write_text('{"image": "a.png"}\n')
    with pytest.raises(SourceError, match="two side-car files"):
        FolderSource(tmp_path)


def test_names_that_are_not_utf8(tmp_path):
    fill(tmp_path, "a.png")
    try:
        (tmp_path / "b\udcff.png").touch()
    except OSError:
        pytest.skip("this file system refuses such names")
    with pytest.raises(SourceError, match="not UTF-8"):
        FolderSource(tmp_path)

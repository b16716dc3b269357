"""Caption files of Flickr8k and Flickr30k in every published spelling, written by hand."""

from __future__ import annotations

import pytest

from embedstore.errors import SourceError, UnreadableImage
from embedstore.sources import open_source
from embedstore.sources.flickr import WITHOUT_CAPTION
from embedstore.testing.sources import SourceContract

TOKEN = """\
1000268201_693b08cb0e.jpg#0\tA child in a pink dress is climbing up a set of stairs in an entry way .
1000268201_693b08cb0e.jpg#1\tA girl going into a wooden building .
1001773457_577c3a7d70.jpg#0\tA black dog and a spotted dog are fighting , "playing"
2258277193_586949ec62.jpg.1#0\tpeople waiting for the subway
"""
COMMA = '''\
image,caption
1000268201_693b08cb0e.jpg,A child in a pink dress is climbing up a set of stairs in an entry way .
1000268201_693b08cb0e.jpg,A girl going into a wooden building .
1001773457_577c3a7d70.jpg,"A black dog and a spotted dog are fighting , ""playing"""
2258277193_586949ec62.jpg.1,people waiting for the subway
'''
UNQUOTED = COMMA.replace('"A black', "A black").replace('""playing"""', '"playing"')
BARS = """\
image_name| comment_number| comment
1000268201_693b08cb0e.jpg| 0| A child in a pink dress is climbing up a set of stairs in an entry way .
1000268201_693b08cb0e.jpg| 1| A girl going into a wooden building .
1001773457_577c3a7d70.jpg| 0| A black dog and a spotted dog are fighting , "playing"
2258277193_586949ec62.jpg.1| 0   people waiting for the subway
"""
SPELLINGS = {
    "Flickr8k.token.txt": TOKEN,
    "results_20130124.token": TOKEN,
    "captions.txt": COMMA,
    "some_captions.txt": UNQUOTED,
    "results.csv": BARS,
}
NAMES = ["1000268201_693b08cb0e.jpg", "1001773457_577c3a7d70.jpg"]


@pytest.fixture(params=SPELLINGS)
def spelling(request, tmp_path, draw):
    draw(tmp_path / "Images", *NAMES)
    (tmp_path / request.param).write_text(SPELLINGS[request.param], encoding="utf-8")
    return tmp_path / request.param


def texts(source):
    return {source[i].id: [c.text for c in source[i].captions] for i in range(len(source))}


class TestContract(SourceContract):
    @pytest.fixture
    def source(self, spelling):
        return open_source(f"flickr:{spelling}")


def test_every_spelling_says_the_same(spelling):
    source = open_source(f"flickr:{spelling}")
    assert texts(source) == {
        "1000268201_693b08cb0e.jpg": [
            "A child in a pink dress is climbing up a set of stairs in an entry way .",
            "A girl going into a wooden building .",
        ],
        "1001773457_577c3a7d70.jpg": ['A black dog and a spotted dog are fighting , "playing"'],
        "2258277193_586949ec62.jpg.1": ["people waiting for the subway"],
    }
    assert source[1].picture.open().size == (6, 4)
    with pytest.raises(UnreadableImage, match="file not found"):
        source[2].picture.open()
    assert source.identity == {"kind": "flickr", "language": "en"}


@pytest.mark.parametrize("name", ["Flickr8k.token.txt", "results_20130124.token", "captions.txt"])
def test_the_kind_is_detected(tmp_path, draw, name):
    draw(tmp_path, *NAMES)
    (tmp_path / name).write_text(SPELLINGS[name], encoding="utf-8-sig")
    assert open_source(str(tmp_path / name)).identity["kind"] == "flickr"


def test_split_lists_of_flickr8k(spelling):
    folder = spelling.parent
    (folder / "Flickr_8k.trainImages.txt").write_text(f"{NAMES[0]}\n\n9999.jpg\n")
    (folder / "Flickr_8k.devImages.txt").write_text("")
    (folder / "Flickr_8k.testImages.txt").write_text(f"{NAMES[1]}\r\n")
    source = open_source(f"flickr:{spelling}")
    assert [source[i].split for i in range(3)] == ["train", "test", None]
    assert source.dropped[WITHOUT_CAPTION] == 1
    test = open_source(f"flickr:{spelling}?splits=test")
    assert (list(texts(test)), test.identity["splits"]) == ([NAMES[1]], "test")
    with pytest.raises(SourceError, match="no split 'dev'"):
        open_source(f"flickr:{spelling}?splits=dev")


def test_split_lists_of_flickr30k_have_no_endings(spelling):
    (spelling.parent / "train.txt").write_text("1000268201_693b08cb0e\n")
    (spelling.parent / "val.txt").write_text("1001773457_577c3a7d70\n")
    source = open_source(f"flickr:{spelling}")
    assert [source[i].split for i in range(3)] == ["train", "val", None]


def test_a_picture_in_two_lists(spelling):
    (spelling.parent / "train.txt").write_text("1000268201_693b08cb0e\n")
    (spelling.parent / "test.txt").write_text("1000268201_693b08cb0e.jpg\n")
    with pytest.raises(SourceError, match="a picture in two split lists") as caught:
        open_source(f"flickr:{spelling}")
    assert "test.txt, line 1" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "what", "where"),
    [
        ("", "no captions in this file", "captions.txt"),
        ("image,caption\n", "no captions in this file", "captions.txt"),
        ("a.jpg,no header\n", "not a caption file of Flickr8k", "line 1"),
        ("a.jpg#0\tx\nb.jpg\ty\n", "not a picture and its caption", "line 2"),
        ("image,caption\na.jpg\n", "not a picture and its caption", "line 2"),
        ("image,caption\n../a.jpg,x\n", "a path leaves the image folder", "line 2"),
        ("image,caption\n\n/a.jpg,x\n", "an absolute path outside --image-root", "line 3"),
        ("image,caption\na.jpg,x\0y\n", "a NUL byte", "line 2"),
        (b"image,caption\na.jpg,x\nb.jpg,\xff\n", "not UTF-8", "line 3"),
        ("a.jpg#0\tx\n", "not one of the pictures is there", "flickr30k-images/a.jpg"),
    ],
)
def test_files_that_are_refused(tmp_path, text, what, where):
    path = tmp_path / "captions.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SourceError) as caught:
        open_source(f"flickr:{path}")
    assert what in str(caught.value)
    assert where in str(caught.value)


def test_an_empty_caption_is_counted_and_a_line_too_long_refused(tmp_path, draw, monkeypatch):
    draw(tmp_path, "a.jpg")
    path = tmp_path / "captions.txt"
    path.write_text("image,caption\na.jpg,\na.jpg,x\n")
    source = open_source(str(path))
    assert (texts(source), source.dropped["empty captions"]) == ({"a.jpg": ["x"]}, 1)
    monkeypatch.setattr("embedstore.sources.reading.lines.MOST_BYTES", 20)
    path.write_text("image,caption\na.jpg," + "x" * 100)
    with pytest.raises(SourceError, match="a line too long") as caught:
        open_source(str(path))
    assert "line 2" in str(caught.value)

"""Words and pictures to the nearest rows of a store."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

import embedstore
from embedstore.documents import FitConfig
from embedstore.encode import EncodeOptions, apply_head, encode_source
from embedstore.errors import HeadError, UsageError
from embedstore.fit import fit_head
from embedstore.recipes.search import query_of, search_store
from embedstore.recipes.search_page import search_page
from embedstore.store import open_store

EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_vision, tiny_words):
    """A store of 60 pictures, one of them unreadable, with captions in two languages, and a head."""
    root = tmp_path_factory.mktemp("search")
    rng = np.random.default_rng(0)
    lines = ["image,caption,language,role,split"]
    for k in range(60):
        name = f"{k:03d}.png"
        Image.fromarray(rng.integers(0, 256, (36, 40, 3), np.uint8)).save(root / name)
        split = "test" if k % 3 == 0 else "train"
        said = EVIL if k == 7 else f"picture {chr(97 + k % 26)} {chr(97 + k // 26)}"
        lines += [f"{name},bild {k},de,caption,{split}", f"{name},{said},en,caption,{split}"]
        lines += [f"{name},wrong {k},en,negative,{split}"]
    (root / "059.png").write_bytes(b"no picture")
    (root / "captions.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    encode_source(
        str(root / "captions.csv"),
        root / "store",
        image_encoders=[f"vision=hf:{tiny_vision}"],
        text_encoders=[f"words=hf:{tiny_words}"],
        options=EncodeOptions(device="cpu", max_failed=0.1),
    )
    config = FitConfig(image="vision", text="words", split="train", width=8, epochs=2, batch_size=8)
    fit_head(root / "store", config, root / "head", device="cpu")
    return root


def searched(place, query, **options):
    return search_store(place / "store", place / "head", query, device="cpu", **options)


def brute(place, query, table="images"):
    """Ids and scores of every row, best first, by NumPy."""
    model, store = embedstore.load(place / "head", device="cpu"), open_store(place / "store")
    vector = model.encode_text(query) if isinstance(query, str) else model.encode_image(query)
    feature = store["vision" if table == "images" else "words"]
    roles = store.texts(["role"])["role"].to_pylist()
    rows = np.flatnonzero(feature.status() == 0)
    if table == "texts":
        rows = np.array([r for r in rows if roles[r] != "negative"])
    embed = model.head.embed_images if table == "images" else model.head.embed_texts
    scores = (embed(feature, rows).astype(np.float64) @ vector[0].astype(np.float64)).round(6)
    order = np.lexsort((rows, -scores))
    ids = (store.images if table == "images" else store.texts)(["id"])["id"]
    return [ids[int(rows[i])].as_py() for i in order], scores[order]


def test_words_find_the_nearest_pictures_with_their_captions(place):
    found = searched(place, "picture a", top=7)
    ids, scores = brute(place, "picture a")
    np.testing.assert_allclose([a.score for a in found.answers], scores[:7], atol=1e-5)
    assert [a.id for a in found.answers] == ids[:7]
    assert [a.rank for a in found.answers] == list(range(1, 8))
    assert (found.kind, found.feature, found.applied) == ("words", "vision", False)
    assert (found.searched, found.left_out) == (59, 1)
    first = found.answers[0]
    assert first.texts[1].startswith("bild")
    assert not first.texts[0].startswith(("bild", "wrong"))
    assert all("wrong" not in text for a in found.answers for text in a.texts)
    assert first.jpeg[:2] == b"\xff\xd8"
    german = searched(place, "picture a", top=1, language="de").answers[0]
    assert german.texts[0].startswith("bild")


def test_a_picture_finds_itself_and_texts_without_negatives(place):
    found = searched(place, place / "012.png", top=3)
    assert found.answers[0].score == pytest.approx(1, abs=1e-3)
    assert "012" in found.answers[0].id
    assert (found.kind, found.query) == ("picture", "012.png")
    texts = searched(place, place / "012.png", table="texts", top=200)
    assert (texts.searched, len(texts.answers)) == (120, 120)
    assert [a.id for a in texts.answers][:5] == brute(place, place / "012.png", "texts")[0][:5]
    assert all("wrong" not in a.texts[0] for a in texts.answers)
    assert texts.answers[0].image is not None


def test_a_split_is_searched_alone(place):
    images = searched(place, "picture", split="test", top=100)
    assert len(images.answers) == 20
    assert {a.row for a in searched(place, "picture", split="test", table="texts", top=100).answers} <= {
        row
        for row, image in enumerate(open_store(place / "store").texts()["image"].to_pylist())
        if image in {a.row for a in images.answers}
    }
    with pytest.raises(UsageError, match="no split"):
        searched(place, "picture", split="nosuch")


def test_applied_embeddings_are_found_and_give_the_same_answers(place, tmp_path, tiny_vision):
    import shutil

    shutil.copytree(place / "store", tmp_path / "store")
    apply_head(place / "head", tmp_path / "store", name="joint", policy="float32", device="cpu")
    model = embedstore.load(place / "head", device="cpu")
    found = search_store(tmp_path / "store", model, "picture a", top=60)
    assert (found.applied, found.feature, found.left_out) == (True, "joint", 1)
    direct = search_store(tmp_path / "store", model, "picture a", top=60, feature="vision")
    assert not direct.applied
    assert [a.id for a in found.answers] == [a.id for a in direct.answers]
    np.testing.assert_allclose([a.score for a in found.answers], [a.score for a in direct.answers], atol=1e-6)
    config = FitConfig(image="vision", text="words", width=8, epochs=1, batch_size=8, seed=5)
    fit_head(tmp_path / "store", config, tmp_path / "other", device="cpu")
    with pytest.raises(HeadError, match="of another head"):
        search_store(tmp_path / "store", tmp_path / "other", "a", feature="joint", device="cpu")
    with pytest.raises(UsageError, match="feature of texts"):
        search_store(tmp_path / "store", model, "a", feature="joint-texts")


def test_blocks_make_no_difference(place, monkeypatch):
    whole = searched(place, "picture a", top=20)
    monkeypatch.setattr("embedstore.recipes.search.BLOCK", 7)
    parts = searched(place, "picture a", top=20)
    assert [a.id for a in parts.answers] == [a.id for a in whole.answers]


class Reader(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.urls, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.urls += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


def test_the_page_is_self_contained_and_escapes_everything(place):
    pytest.importorskip("jinja2")
    found = searched(place, EVIL + ' "x"', top=60)
    assert any(EVIL in a.texts for a in found.answers)
    page = Reader(search_page(found))
    assert "script" not in page.tags
    assert all(url.startswith("data:") for url in page.urls)
    assert sum(url.startswith("data:image/jpeg") for url in page.urls) == 59
    assert f"“{EVIL}" in page.text
    picture = Reader(search_page(searched(place, place / "001.png", top=2, table="texts")))
    assert sum(url.startswith("data:image/jpeg") for url in picture.urls) >= 2


def test_a_store_without_thumbnails_says_so_on_the_page(place, tmp_path, tiny_vision, tiny_words):
    pytest.importorskip("jinja2")
    encode_source(
        str(place / "captions.csv"),
        tmp_path / "bare",
        image_encoders=[f"vision=hf:{tiny_vision}"],
        options=EncodeOptions(device="cpu", max_failed=0.1, thumbnails=0),
    )
    found = search_store(tmp_path / "bare", place / "head", "picture", top=2, device="cpu")
    assert [a.jpeg for a in found.answers] == [None, None]
    assert "no thumbnail of" in search_page(found)


def test_what_was_typed_is_a_picture_where_the_file_is_there(place, tmp_path):
    assert query_of(str(place / "001.png")) == place / "001.png"
    assert query_of(str(place / "001.png"), words=True) == str(place / "001.png")
    assert query_of("a red circle") == "a red circle"
    assert query_of("a photo of x.png and more.jpg") == "a photo of x.png and more.jpg"
    assert query_of("x" * 5000) == "x" * 5000
    assert query_of("a\0b") == "a\0b"
    with pytest.raises(UsageError, match="no such picture"):
        query_of(str(tmp_path / "none.JPG"))
    with pytest.raises(UsageError, match="query is empty"):
        query_of("  ")


def test_what_cannot_be_searched_is_refused(place):
    with pytest.raises(UsageError, match="query is empty"):
        searched(place, " ")
    with pytest.raises(UsageError, match="at least one answer"):
        searched(place, "a", top=0)
    with pytest.raises(UsageError, match="images, texts"):
        searched(place, "a", table="both")
    with pytest.raises(UsageError, match=r"(?s)no picture that can be read.*not an image.*--words"):
        searched(place, place / "captions.csv")


def test_the_command(run, place, tmp_path):
    base = ["search", place / "store", "--head", place / "head", "--device", "cpu"]
    code, out, err = run(*base, "picture a", "--top", 3)
    assert code == 0, err
    assert "59 images compared, cached tokens of vision" in out
    assert "1 images left out" in err
    assert max(map(len, out.splitlines())) <= 80
    code, out, _ = run(*base, "picture a", "--top", 3, "--json")
    answers = json.loads(out)["answers"]
    assert [a["rank"] for a in answers] == [1, 2, 3]
    assert set(answers[0]) == {"rank", "score", "row", "id", "texts", "image"}
    page = tmp_path / "page.html"
    code, out, err = run(*base, place / "003.png", "--table", "texts", "--html", page)
    assert code == 0, err
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert run(*base, "a", "--html", tmp_path / "nowhere" / "page.html")[0] == 2
    assert run(*base, "nosuch.png")[0] == 2

"""`bench speed`: what is timed, how its limits are counted, and what is left out."""

import json
import shutil

import numpy as np
import pytest
import torch

from embedstore.bench.timing import Work
from embedstore.documents import RatesReport
from embedstore.encode import EncodeOptions, encode_source
from embedstore.errors import EncoderError, StoreError, UsageError
from embedstore.recipes.speed import measure_speed
from embedstore.recipes.speed.fitting import fit_works
from embedstore.recipes.speed.products import counted_flops, products
from embedstore.recipes.speed.samples import picture_samples, text_samples
from embedstore.store import open_store
from embedstore.testing.stores import write_random_store

ENCODE = ["matrix products", "products alone", "forward alone", "{}", "write and flush", "encode, all stages"]
FIT = ["matrix products", "products alone", "step alone", "load alone", "fit"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """One call a round; products of small matrices."""
    monkeypatch.setattr("embedstore.bench.timing._calls", lambda work, _: work.run() is None or 1)
    monkeypatch.setattr("embedstore.recipes.speed.products._WIDE_CPU", 64)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory, tiny_vision, tiny_words):
    """Scenes with both towers; that they are remembered is a matter of this process."""
    path = tmp_path_factory.mktemp("speed") / "store"
    encode_source(
        "scenes:24?seed=0",
        path,
        image_encoders=[f"seen=hf:{tiny_vision}"],
        text_encoders=[f"words=hf:{tiny_words}"],
        options=EncodeOptions(device="cpu"),
    )
    return open_store(path)


def test_every_stage_of_every_part(encoded, tiny_vision, tiny_words):
    report = measure_speed(
        encoded,
        image_encoder=f"hf:{tiny_vision}",
        text_encoder=f"hf:{tiny_words}",
        encode_batch=8,
        fit_batch=6,
        repeats=1,
        device="cpu",
    )
    said = {}
    for rate in report.rates:
        said.setdefault(rate.of, []).append(rate.what)
    images, texts, fit = said
    assert images == "encode seen: 32 pictures, thumbnails of the store"
    assert said[images] == [what.format("decode and prepare") for what in ENCODE]
    assert texts.startswith("encode words: ")
    assert said[texts] == [what.format("cut into tokens") for what in ENCODE]
    assert fit == "fit seen + words: 6 pairs a step, float32"
    assert said[fit] == FIT
    limits = {rate.what: rate.limit for rate in report.rates}
    assert limits["encode, all stages"] == "forward alone"
    assert limits["forward alone"] == limits["step alone"] == "products alone"
    assert limits["fit"] == "step alone"
    assert {rate.unit for rate in report.rates} == {"FLOP/s", "pictures/s", "texts/s", "steps/s"}
    assert all(rate.low > 0 for rate in report.rates)
    assert report.options["fit_batch"] == 6
    assert not report.notes
    assert RatesReport.from_json(report.to_json(), where="test") == report


def test_pictures_of_a_source(encoded, picture_folder, tiny_vision):
    report = measure_speed(
        encoded,
        parts=["images"],
        source=f"folder:{picture_folder}",
        image_encoder=f"hf:{tiny_vision}",
        encode_batch=4,
        repeats=1,
        device="cpu",
    )
    assert {rate.of for rate in report.rates} == {"encode seen: 16 pictures of the source"}


def test_an_encoder_that_is_given_must_be_the_right_one(encoded, tiny_words):
    with pytest.raises(EncoderError):
        measure_speed(encoded, parts=["images"], image_encoder=f"hf:{tiny_words}", device="cpu", repeats=1)


@pytest.fixture(scope="module")
def random_store(tmp_path_factory):
    return write_random_store(tmp_path_factory.mktemp("speed") / "store", images=40, captions=2)


def test_encoders_that_nobody_knows_are_left_out_and_the_fit_is_measured(random_store):
    report = measure_speed(random_store, fit_batch=10, repeats=1, device="cpu")
    assert {rate.what for rate in report.rates} == set(FIT)
    assert "images are not encoded" in report.notes[0]
    assert "--image-encoder" in report.notes[0]
    assert "--text-encoder" in report.notes[1]


def test_a_language_that_no_text_has_leaves_the_fit_out(random_store):
    with pytest.raises(UsageError, match="no text is in language 'xx', but in en"):
        measure_speed(random_store, parts=["fit"], language="xx", repeats=1, device="cpu")


def test_progress_never_goes_back(random_store):
    told = []
    measure_speed(
        random_store,
        parts=["images", "fit"],
        fit_batch=10,
        repeats=1,
        device="cpu",
        progress=lambda name, done, total: told.append((name, done, total)),
    )
    assert [name for name, _, _ in told][:: len(told) - 1] == ["images", ""]
    shares = [done for _, done, _ in told]
    assert shares == sorted(shares)
    assert shares[-1] == 2
    assert any(1 < share < 2 for share in shares)


def test_a_store_without_texts(tmp_path, random_store):
    alone = open_store(shutil.copytree(random_store.path, tmp_path / "store"))
    shutil.rmtree(alone.path / "features" / "words")
    with pytest.raises(UsageError, match="nothing can be measured") as bad:
        measure_speed(alone, parts=["fit"], repeats=1, device="cpu")
    assert "no feature of texts" in str(bad.value)


def test_the_fit_that_is_timed_learns_on_every_batch_of_the_store(random_store):
    with fit_works(
        random_store, "vision", "words", batch_size=10, language="en", device=torch.device("cpu"), seed=0
    ) as found:
        by_name = {work.what: work for work in found.works}
        assert by_name["fit"].amount == by_name["load alone"].amount == 4
        assert by_name["step alone"].amount == 1
        before = torch.get_rng_state()
        for work in found.works:
            work.run()
        # The fit and the step it is measured beside may take turns in any order.
        by_name["step alone"].run()
        assert found.pictures == 10
        assert found.parameters > 0
    assert before.shape == torch.get_rng_state().shape


def test_randomness_is_left_as_it_was(random_store):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    measure_speed(random_store, parts=["fit"], fit_batch=10, repeats=1, device="cpu")
    assert torch.equal(torch.rand(3), expected)


def test_operations_are_counted_as_two_a_multiplication():
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    assert counted_flops(lambda: a @ b) == 2 * 3 * 5 * 7


def test_the_limit_is_how_much_the_products_would_do():
    plain, bound = products(
        4 * 64**3, amount=10, unit="pictures/s", device=torch.device("cpu"), dtype="float32"
    )
    assert plain.amount == 2 * 64**3
    # One product of 64³ is half of what ten pictures cost.
    assert bound.amount == pytest.approx(5)
    assert isinstance(plain, Work)
    plain.run()


def test_pictures_are_painted_where_a_store_keeps_none(random_store, tmp_path):
    made = picture_samples(random_store, tmp_path / "pictures", count=3, seed=1)
    assert made.planned.plan.images == 3
    assert made.words == "3 painted pictures, as the store has no thumbnails"
    first = np.asarray(made.planned.picture(0)[1].open())
    assert first.shape == (384, 384, 3)
    assert first.std() > 10


def test_texts_are_those_of_the_store(random_store, tmp_path):
    made = text_samples(random_store, tmp_path / "texts.jsonl", count=1000, seed=1)
    assert made.planned.plan.texts == 80
    assert sorted(row["text"] for row in made.planned.text_rows()) == sorted(
        random_store.texts(["text"])["text"].to_pylist()
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"parts": ["image"]}, "no such part"),
        ({"parts": []}, "no such part"),
        ({"repeats": 0, "parts": ["fit"]}, "1 or more"),
        ({"fit_batch": 1, "parts": ["fit"]}, "batch_size"),
        ({"encode_batch": 0}, "batch-size"),
    ],
)
def test_bad_options_are_refused(random_store, options, words):
    with pytest.raises(UsageError, match=words):
        measure_speed(random_store, device="cpu", **options)


def test_a_feature_that_is_not_there_is_refused(random_store):
    with pytest.raises(StoreError, match="visoin"):
        measure_speed(random_store, image="visoin", device="cpu")


def test_the_command(run, random_store, tmp_path):
    out = tmp_path / "speed.json"
    arguments = ["bench", "speed", random_store.path, "--part", "fit", "--fit-batch", 10, "--repeats", 1]
    code, said, _ = run(*arguments, "--device", "cpu", "--out", out)
    assert code == 0
    assert "fit vision + words: 10 pairs a step" in said
    assert max(len(line) for line in said.splitlines() if not line.startswith("report")) <= 80
    assert RatesReport.from_json(out.read_text(encoding="utf-8"), where="out").task == "speed"
    _, said, _ = run(*arguments, "--device", "cpu", "--json")
    assert json.loads(said)["task"] == "speed"

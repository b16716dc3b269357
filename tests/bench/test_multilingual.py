from __future__ import annotations

import json

import numpy as np
import pytest

from embedstore.bench import (
    bench_multilingual,
    bench_retrieval,
    bench_zeroshot,
    measure_multilingual,
    read_language_classes,
    read_language_templates,
)
from embedstore.bench.classes import ClassName
from embedstore.bench.languages.averages import (
    Tally,
    average_of_classes,
    average_of_ranks,
    averaged_languages,
)
from embedstore.bench.languages.files import chosen_languages, class_names, templates_of
from embedstore.errors import UsageError
from embedstore.metrics.intervals import class_average_interval, mean_interval, shared_mean_interval
from embedstore.metrics.statistics import resampled, values_of
from embedstore.testing.stores import CLASSES, write_random_store

NAMES = {
    "en": {name: name for name in CLASSES},
    "de": {"circle": "Kreis", "square": "Quadrat", "star": "Stern", "cross": "Kreuz"},
    "es": ["círculo", "cuadrado", "estrella", "cruz"],
}
TEMPLATES = {"en": ["a photo of a {}.", "one {}"], "de": ["ein Foto von {}."], "es": ["{}"]}
SPANISH = dict(zip(CLASSES, NAMES["es"], strict=True))
SHARES = ["recall@1", "recall@5", "recall@10"]


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """The store of the other tests, whose three captions an image are of three languages."""
    return write_random_store(
        tmp_path_factory.mktemp("spoken") / "store",
        images=400,
        captions=3,
        seed=5,
        noise=0.2,
        languages=("en", "de", "fr"),
    )


@pytest.fixture
def report(spoken, head_dir, encoder):
    return bench_multilingual(
        spoken, head_dir, language_classes=NAMES, language_templates=TEMPLATES, device="cpu"
    )


def test_each_language_is_measured_as_retrieval_does(report, spoken, head_dir) -> None:
    for language in ("en", "de", "fr"):
        alone = bench_retrieval(spoken, head_dir, language=language, device="cpu")
        for direction in ("text_to_image", "image_to_text"):
            assert report.metrics[f"{direction}/{language}"] == alone.metrics[direction]
            assert report.chance[f"{direction}/{language}"] == alone.chance[direction]
    assert (report.images, report.texts) == (40, 120)
    assert report.options["languages"] == "de,en,fr,es"


def test_each_language_is_measured_as_zeroshot_does(report, spoken, head_dir, encoder) -> None:
    for language, names in (NAMES | {"es": SPANISH}).items():
        lines = [f"{label}\t{names[label]}" for label in CLASSES]
        alone = bench_zeroshot(spoken, head_dir, classes=lines, templates=TEMPLATES[language], device="cpu")
        assert report.metrics[f"image_to_class/{language}"] == alone.metrics["image_to_class"]
    assert "image_to_class/fr" not in report.metrics
    assert report.templates == ("de: ein Foto von {}.", "en: a photo of a {}.", "en: one {}", "es: {}")
    assert report.options["prompts"] == 4 * 4


def test_averages_are_means_of_the_languages_with_and_without_english(report) -> None:
    groups = {"text_to_image": "en de fr", "image_to_text": "en de fr", "image_to_class": "en de es"}
    for direction, languages in groups.items():
        for name, chosen in (("average", languages.split()), ("average-without-en", languages.split()[1:])):
            found = report.metrics[f"{direction}/{name}"]
            for metric, figure in found.items():
                of = [report.metrics[f"{direction}/{language}"][metric].value for language in chosen]
                assert figure.value == pytest.approx(np.mean(of), abs=1e-12)
                assert figure.low <= figure.value <= figure.high
        assert list(report.metrics[f"{direction}/average"]) == (
            ["top-1", "top-5", "mean-per-class"] if direction == "image_to_class" else SHARES
        )
    chance = report.chance["image_to_text/average"]["recall@1"]
    assert chance == pytest.approx(report.chance["image_to_text/de"]["recall@1"]) == pytest.approx(1 / 40)


def test_outcomes_recompute_the_figures(spoken, head_dir, encoder) -> None:
    measured = measure_multilingual(
        spoken, head_dir, language_classes=NAMES, language_templates=TEMPLATES, device="cpu"
    )
    assert measured.outcomes.keys() == measured.report.metrics.keys()
    for group, outcomes in measured.outcomes.items():
        figures = measured.report.metrics[group]
        again = values_of(outcomes.sample, outcomes.statistics)
        assert again == pytest.approx({metric: figures[metric].value for metric in again})
        averaged_classes = group.startswith("image_to_class/average")
        assert figures.keys() - again.keys() == ({"mean-per-class"} if averaged_classes else set())
    of_average = measured.outcomes["text_to_image/average"]
    assert (of_average.sample.count, len(of_average.ids)) == (40, 120)
    draws = resampled(of_average.sample, of_average.statistics, seed=0, resamples=2000)["recall@1"]
    figure = measured.report.metrics["text_to_image/average"]["recall@1"]
    assert np.percentile(draws, (2.5, 97.5)) == pytest.approx((figure.low, figure.high), abs=0.02)


def test_languages_are_chosen_and_ordered(spoken, head_dir, encoder) -> None:
    report = bench_multilingual(spoken, head_dir, languages=["fr", "de"], device="cpu")
    assert list(report.metrics) == [
        f"{direction}/{part}"
        for direction in ("text_to_image", "image_to_text")
        for part in ("fr", "de", "average")
    ]
    assert (report.options, report.classes, report.role) == ({"languages": "fr,de"}, 0, "caption")
    alone = bench_multilingual(spoken, head_dir, languages=["es"], language_classes=NAMES, device="cpu")
    assert list(alone.metrics) == ["image_to_class/es"]
    assert (alone.texts, alone.role, alone.templates) == (0, None, ("es: {}",))
    assert encoder.seen == NAMES["es"]


def test_what_is_in_no_language_is_refused(spoken, head_dir) -> None:
    with pytest.raises(UsageError, match=r"found: xx\n\s*allowed: de, en, fr, es"):
        bench_multilingual(spoken, head_dir, languages=["de", "xx"], language_classes=NAMES, device="cpu")
    with pytest.raises(UsageError, match=r"no templates in a language[\s\S]*es"):
        bench_multilingual(
            spoken,
            head_dir,
            language_classes=NAMES,
            language_templates={"en": ["{}"], "de": ["{}"]},
            device="cpu",
        )
    with pytest.raises(UsageError, match="texts of one language"):
        bench_multilingual(spoken, head_dir, role="long", device="cpu")


def test_class_names_of_a_language_are_a_list_in_the_stores_order_or_by_label(spoken) -> None:
    found = class_names(spoken, NAMES)
    assert found["es"] == tuple(ClassName(label=label, words=SPANISH[label]) for label in CLASSES)
    with pytest.raises(UsageError, match=r"fr: a list[\s\S]*found: 1[\s\S]*allowed: 4"):
        class_names(spoken, {"fr": ["rond"]})
    with pytest.raises(UsageError, match=r"en and de: [\s\S]*same classes[\s\S]*cross, square, star"):
        class_names(spoken, {"en": NAMES["en"], "de": {"circle": "Kreis"}})
    with pytest.raises(UsageError, match=r"\{\}"):
        templates_of({"de": ["ohne"]}, ["de"])
    assert chosen_languages(None, of_texts=("b", "a"), of_classes=("c", "a")) == (("b", "a"), ("a", "c"))


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (read_language_classes, []),
        (read_language_classes, {}),
        (read_language_classes, {"de": {}}),
        (read_language_classes, {"de": {"a": 1}}),
        (read_language_classes, {"de": [" "]}),
        (read_language_templates, ["{}"]),
        (read_language_templates, {"de": "{}"}),
        (read_language_templates, {"de": [1]}),
    ],
)
def test_files_of_another_shape_are_refused(tmp_path, read, value) -> None:
    file = tmp_path / "names.json"
    file.write_text(json.dumps(value))
    with pytest.raises(UsageError, match=r"names\.json[\s\S]*allowed: \{"):
        read(file)


def test_averages_of_ranks_by_hand_with_missing_captions() -> None:
    """Three images; German lacks the second and has two captions for the third."""
    english = Tally(units=np.array([4, 7, 9]), ranks=np.array([1, 6, 2]))
    german = Tally(units=np.array([4, 9, 9]), ranks=np.array([2, 1, 11]))
    found = average_of_ranks([english, german], seed=0)
    assert found["recall@1"].value == pytest.approx((1 / 3 + 1 / 3) / 2)
    assert found["recall@5"].value == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert found["recall@10"].value == pytest.approx((1 + 2 / 3) / 2)


def test_averages_of_classes_by_hand() -> None:
    labels = np.array([0, 0, 0, 1])
    ranks = [np.array([1, 1, 1, 2]), np.array([1, 2, 7, 1])]
    found = average_of_classes(ranks, labels, seed=0)
    assert found["top-1"].value == pytest.approx((3 / 4 + 2 / 4) / 2)
    assert found["top-5"].value == pytest.approx((1 + 3 / 4) / 2)
    assert found["mean-per-class"].value == pytest.approx(((1 + 0) / 2 + (1 / 3 + 1) / 2) / 2)


def test_which_averages_there_are() -> None:
    assert averaged_languages(["de", "en", "fr"]) == {
        "average": ("de", "en", "fr"),
        "average-without-en": ("de", "fr"),
    }
    assert averaged_languages(["de", "fr"]) == {"average": ("de", "fr")}
    assert averaged_languages(["en", "fr"]) == {"average": ("en", "fr")}
    assert averaged_languages(["en"]) == {}


def test_one_part_of_single_rows_is_the_interval_of_a_mean() -> None:
    values = (np.arange(50) % 3 == 0).astype(float)
    wanted = mean_interval(values, seed=3)
    assert shared_mean_interval(values[:, None], np.ones((50, 1)), seed=3) == pytest.approx(wanted)


def test_rows_are_drawn_with_all_their_parts() -> None:
    """Two parts that always agree are one part: nothing is gained; two that never do are certain."""
    values = (np.arange(40) % 2).astype(float)
    counts = np.ones((40, 2), np.int64)
    alone = mean_interval(values, seed=0)
    same = shared_mean_interval(np.stack([values, values], axis=1), counts, seed=0)
    assert same == pytest.approx(alone)
    other = shared_mean_interval(np.stack([values, 1 - values], axis=1), counts, seed=0)
    assert other == pytest.approx((0.5, 0.5))
    with pytest.raises(UsageError, match="each part"):
        shared_mean_interval(np.zeros((2, 2)), np.array([[1, 0], [1, 0]]), seed=0)


def test_intervals_of_averages_equal_a_plain_bootstrap() -> None:
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 3, (30, 3))
    sums = rng.binomial(counts, 0.4).astype(float)
    drawn = rng.integers(0, 30, (4000, 30))
    means = (sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)).mean(axis=1)
    found = shared_mean_interval(sums, counts, seed=0, resamples=4000)
    assert found == pytest.approx(np.percentile(means, (2.5, 97.5)), abs=0.012)
    labels, values = rng.integers(0, 3, 30), rng.integers(0, 4, 30) / 3
    of_classes = [values[labels == c] for c in range(3)]
    slow = [np.mean([rng.choice(own, len(own)).mean() for own in of_classes]) for _ in range(4000)]
    found = class_average_interval(values, labels, seed=0, resamples=4000)
    assert found == pytest.approx(np.percentile(slow, (2.5, 97.5)), abs=0.012)

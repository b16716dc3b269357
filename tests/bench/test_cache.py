"""`bench cache`: what is read, against which limits, and what cannot be measured."""

import json

import numpy as np
import pytest

from embedstore.bench.cache import _Copies, measure_cache
from embedstore.documents import RatesReport
from embedstore.errors import EmbedstoreError, UsageError
from embedstore.store import GroupReader, open_store
from embedstore.testing.stores import write_random_store

WARM = ["memcpy, one thread", "memcpy", "plain read", "in order", "shuffled", "random rows"]
COLD = ["plain read, cold", "in order, cold", "shuffled, cold", "random rows, cold"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """One call a round is enough to see what is called."""
    monkeypatch.setattr("embedstore.bench.timing._calls", lambda work, _: work.run() or 1)
    monkeypatch.setattr("embedstore.bench.cache._COPIED", 1 << 20)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_random_store(tmp_path_factory.mktemp("cache") / "store", images=64, captions=2)


def test_every_feature_is_read_in_every_way(small, monkeypatch):
    monkeypatch.setattr("embedstore.bench.cache.make_cold", lambda files: True)
    report = measure_cache(small, repeats=1, threads=2)
    assert [(r.of, r.what) for r in report.rates] == [
        (f, w) for f in ("vision", "words") for w in WARM + COLD
    ]
    assert all(0 < r.low <= r.value <= r.high and r.unit == "B/s" for r in report.rates)
    limits = {r.what: r.limit for r in report.rates}
    assert limits["shuffled"] == "memcpy"
    assert limits["shuffled, cold"] == "plain read, cold"
    assert all((r.share is None) == (r.limit is None) for r in report.rates)
    assert report.threads == 2
    assert RatesReport.from_json(report.to_json(), where="test") == report


def test_sizes_are_those_of_the_manifest_and_the_arrays(small):
    report = measure_cache(small, repeats=1)
    held, feature = report.features["vision"], small["vision"]
    assert (held.rows, held.nbytes) == (64, feature.manifest.nbytes)
    assert held.row_bytes == feature.manifest.nbytes / 64
    tokens = feature.array("tokens")
    assert held.arrays["tokens"] == np.prod(tokens.spec.shape[1:]) * tokens.dtype.itemsize
    assert held.measured_bytes == 64 * (held.arrays["tokens"] + held.arrays["prefix"])
    words = report.features["words"]
    assert words.measured_bytes == small["words"].lengths().sum() * small["words"].array("tokens").place_bytes
    assert held.in_memory is None or 0 <= held.in_memory <= 1


def test_what_is_read_is_bounded_by_whole_units(small, monkeypatch):
    works = {}

    def keep(some, *, of, **_):
        works.setdefault(of, list(some))
        return []

    monkeypatch.setattr("embedstore.bench.cache.measure", keep)
    report = measure_cache(small, megabytes=1e-6, repeats=1)
    held = report.features["vision"]
    assert held.measured_rows == small["vision"].header.shard_rows < 64
    amounts = {work.what: work.amount for work in works["vision"]}
    assert amounts["shuffled"] == amounts["memcpy"] == held.measured_bytes
    # One shard of tokens and one of the prefix.
    files = [small["vision"].path / array / "c/0/0/0" for array in ("tokens", "prefix")]
    assert amounts["plain read"] == sum(path.stat().st_size for path in files)


def test_progress_never_goes_back(small):
    told = []
    measure_cache(small, repeats=2, progress=lambda *said: told.append(said))
    shares = [done for _, done, _ in told]
    assert shares == sorted(shares)
    assert told[-1] == ("", 2, 2)
    assert any(0 < share < 1 for share in shares)


def test_features_are_chosen_by_name(small):
    report = measure_cache(small, features=["words"], repeats=1)
    assert set(report.features) == {"words"}
    with pytest.raises(EmbedstoreError, match="wods"):
        measure_cache(small, features=["wods"])


def test_stores_read_as_one_are_measured_one_by_one(small, tmp_path):
    write_random_store(tmp_path / "more", images=20, captions=2, ids="b")
    report = measure_cache(open_store(f"{small.path}+{tmp_path / 'more'}"), features=["vision"], repeats=1)
    assert set(report.features) == {"store/vision", "more/vision"}
    assert report.features["more/vision"].rows == 20


def test_where_files_stay_in_memory_nothing_is_called_cold(small, monkeypatch):
    monkeypatch.setattr("embedstore.bench.cache.make_cold", lambda files: False)
    report = measure_cache(small, features=["vision"], repeats=1)
    assert [r.what for r in report.rates] == WARM
    assert "does not drop its files" in report.notes[0]


def test_files_behind_a_url_have_no_plain_read(small, monkeypatch):
    monkeypatch.setattr("embedstore.bench.cache.is_mirrored", lambda path: True)
    report = measure_cache(small, features=["vision"], repeats=1)
    assert [r.what for r in report.rates] == [w for w in WARM if w != "plain read"]
    assert "behind a URL" in report.notes[0]
    assert report.features["vision"].in_memory is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"megabytes": 0}, "above 0"),
        ({"megabytes": np.inf}, "above 0"),
        ({"repeats": 0}, "1 or more"),
        ({"threads": 0}, "1 or more"),
    ],
)
def test_bad_options_are_refused(small, options, words):
    with pytest.raises(UsageError, match=words):
        measure_cache(small, **options)


@pytest.mark.parametrize("nbytes", [1, 70, 100, 101, 250])
def test_every_byte_is_copied_once_and_places_move_on(monkeypatch, nbytes):
    monkeypatch.setattr("embedstore.bench.cache._COPIED", 100)
    copies, seen = _Copies(nbytes), []
    monkeypatch.setattr(_Copies, "_copy", lambda self, first, stop: seen.append((first, stop)))
    copies.alone()
    copies.shared(GroupReader(2))
    assert sum(stop - first for first, stop in seen) == 2 * nbytes
    places = sorted(place % 100 for first, stop in seen for place in range(first, stop))
    # The second copy goes on where the first one ended.
    assert places == sorted(place % 100 for place in range(2 * nbytes))


def test_the_command(run, small, tmp_path):
    out = tmp_path / "cache.json"
    code, said, _ = run("bench", "cache", small.path, "--feature", "vision", "--repeats", 1, "--out", out)
    assert code == 0
    assert "64 rows of" in said
    assert "random rows" in said
    assert max(len(line) for line in said.splitlines() if not line.startswith("report")) <= 80
    assert RatesReport.from_json(out.read_text(encoding="utf-8"), where="out").task == "cache"
    _, said, _ = run("bench", "cache", small.path, "--repeats", 1, "--json")
    assert json.loads(said)["features"].keys() == {"vision", "words"}


def test_a_place_that_cannot_be_written_is_refused_before_the_work(run, small, monkeypatch):
    monkeypatch.setattr(
        "embedstore.bench.cache.measure_cache", lambda *_, **__: pytest.fail("it was measured")
    )
    code, _, said = run("bench", "cache", small.path, "--out", "nowhere/cache.json")
    assert code == 2
    assert "cannot write the file" in said

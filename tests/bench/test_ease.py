"""The ease of alignment: each instance against plain autograd, and what the points say together."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from embedstore.bench import ease_of_store, ease_of_toy_worlds
from embedstore.bench.easing.loss_minimum import Problem, loss_minima
from embedstore.bench.easing.toy_world import toy_sets
from embedstore.documents import EaseReport
from embedstore.errors import UsageError
from embedstore.metrics.cka import linear_cka
from embedstore.store import FeatureWriter, open_store, plan_feature
from embedstore.testing.stores import random_card, write_random_store


def problem(numbers, dtype=torch.float64):
    sets = [toy_sets(number, seed=0) for number in numbers]
    parts = {
        name: torch.from_numpy(np.stack([getattr(s, name) for s in sets])).to(dtype)
        for name in ("a", "b", "weight", "bias")
    }
    return Problem(**parts)


def slow_minimum(a, b, weight, bias, *, iterations):
    """The experiment as it is told: a linear layer, cross entropy both ways, torch's SGD."""
    layer = nn.Linear(a.shape[1], b.shape[1]).to(a.dtype)
    layer.weight.data, layer.bias.data = weight.T.clone(), bias[0].clone()
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.01)
    labels, losses = torch.arange(len(a)), []
    for _ in range(iterations):
        optimiser.zero_grad()
        scores = functional.normalize(layer(a), dim=1) @ functional.normalize(b, dim=1).T / 0.07
        loss = (functional.cross_entropy(scores, labels) + functional.cross_entropy(scores.T, labels)) / 2
        losses.append(loss.item())
        loss.backward()
        optimiser.step()
    return min(losses)


def test_minima_are_those_of_autograd_and_sgd():
    made = problem(range(3))
    found = loss_minima(made, iterations=40)
    slow = [
        slow_minimum(*parts, iterations=40)
        for parts in zip(made.a, made.b, made.weight, made.bias, strict=True)
    ]
    np.testing.assert_allclose(found, slow, rtol=1e-9)
    assert (found < loss_minima(made, iterations=1)).all()


def test_the_lowest_loss_counts_and_not_the_last():
    made = problem([0])
    lowest = [loss_minima(made, iterations=n).item() for n in (1, 5, 60)]
    assert lowest == sorted(lowest, reverse=True)
    uphill = Problem(a=made.a, b=made.b, weight=made.weight * 1e-4, bias=made.bias * 1e-4)
    # From so short a map the first step is far too long.
    first, second = (
        slow_minimum(uphill.a[0], uphill.b[0], uphill.weight[0], uphill.bias[0], iterations=n) for n in (1, 2)
    )
    assert loss_minima(uphill, iterations=2).item() == pytest.approx(min(first, second), rel=1e-9)


def test_a_toy_world_is_made_as_told():
    world = toy_sets(3, seed=0)
    assert world.a.shape == world.b.shape == (32, 16)
    assert np.abs(world.weight).max() <= 1 / 4 < 1.05 * np.abs(world.weight).max()
    again, other = toy_sets(3, seed=0), toy_sets(3, seed=1)
    assert (again.a == world.a).all()
    assert (other.a != world.a).all()


def test_toy_worlds_correlate_as_the_paper_says():
    report = ease_of_toy_worlds(instances=60, device="cpu")
    found = report.metrics["cka"]["pearson"]
    assert -0.9 < found.low < found.value < found.high < -0.1
    first = toy_sets(0, seed=0)
    assert report.points[0].cka == pytest.approx(linear_cka(first.a, first.b).biased)
    alike, losses = [p.cka for p in report.points], np.log([p.loss for p in report.points])
    assert found.value == pytest.approx(np.corrcoef(alike, losses)[0, 1])


def test_an_instance_does_not_depend_on_how_many_there_are():
    few, more = (ease_of_toy_worlds(instances=n, seed=7, device="cpu") for n in (4, 52))
    assert [p.cka for p in few.points] == [p.cka for p in more.points[:4]]
    np.testing.assert_allclose([p.loss for p in few.points], [p.loss for p in more.points[:4]], rtol=0.02)


def test_threads_are_given_back():
    before = torch.get_num_threads()
    ease_of_toy_worlds(instances=4, device="cpu")
    assert torch.get_num_threads() == before


def add(store, name, kind, vectors, seed):
    """A feature that is nothing but pooled vectors."""
    card = random_card(kind, width=vectors.shape[1], tokens=1, seed=seed)
    header = plan_feature(name=name, plan=store.plan, card=card, policy="float32")
    values = vectors.astype(np.float32)
    arrays = {"pooled": values, "tokens": values[:, None], "prefix": values[:, None]}
    writer = FeatureWriter.open(store.path, header)
    for unit in writer.missing_units():
        rows = header.unit_rows(unit)
        writer.write_unit(unit, {k: v[rows.start : rows.stop] for k, v in arrays.items()})
    writer.finish()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Three image encoders that see ever less of the latent that the captions tell of."""
    path = tmp_path_factory.mktemp("ease") / "store"
    made = write_random_store(path, images=80, captions=2, seed=3, noise=0.2)
    seen = np.asarray(made["vision"].decoded("pooled", np.arange(80)), np.float64)
    rng = np.random.default_rng(0)
    for number, noise in enumerate((0.5, 1.0, 3.0)):
        add(made, f"noise-{noise}", "image", seen + noise * rng.normal(size=seen.shape), seed=20 + number)
    return open_store(path)


def test_pairs_of_a_store(store):
    report = ease_of_store(store, sample=40, device="cpu")
    by_name = {p.image: p for p in report.points}
    assert list(by_name) == ["noise-0.5", "noise-1.0", "noise-3.0", "vision"]
    assert {p.text for p in report.points} == {"words"}
    assert by_name["vision"].cka > by_name["noise-1.0"].cka > by_name["noise-3.0"].cka
    assert report.vectors == 40
    assert report.metrics["cka"]["pearson"].value < -0.5
    assert report.kinds == {"vision": "tokens", "words": "pooled"} | {
        f"noise-{n}": "tokens" for n in (0.5, 1.0, 3.0)
    }
    assert "few" in report.notes[0]
    assert EaseReport.from_json(report.to_json(), where="test") == report


def test_the_vectors_are_means_of_tokens_and_of_captions(store):
    report = ease_of_store(store, image=["vision"], sample=80, device="cpu")
    feature, rows = store["vision"], np.arange(80)
    tokens = np.concatenate([feature.decoded("prefix", rows), feature.decoded("tokens", rows)], axis=1)
    words = store["words"].decoded("pooled", np.arange(160)).astype(np.float64).reshape(80, 2, -1).mean(1)
    expected = linear_cka(tokens.astype(np.float64).mean(1), words)
    assert report.points[0].cka == pytest.approx(expected.biased, rel=1e-6)
    assert report.metrics == {}
    assert "too few encoder pairs" in report.notes[0]


def test_a_pair_is_measured_alike_whatever_is_beside_it(store):
    alone = ease_of_store(store, image=["noise-1.0"], sample=30, device="cpu").points[0]
    beside = ease_of_store(store, sample=30, device="cpu").points[1]
    assert alone == beside


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s: ease_of_toy_worlds(instances=3), "4 to 100000"),
        (lambda s: ease_of_store(s, sample=2), "4 to 10000"),
        (lambda s: ease_of_store(s, sample=10_001), "4 to 10000"),
        (lambda s: ease_of_store(s, image=["words"]), "feature of texts|one of texts"),
        (lambda s: ease_of_store(s, role="long"), "long"),
    ],
)
def test_what_cannot_be_measured_is_refused(store, call, words):
    with pytest.raises(UsageError, match=words):
        call(store)


def test_vectors_that_float32_cannot_map_are_refused_by_name(tmp_path):
    made = write_random_store(tmp_path / "store", images=20, captions=1, seed=1)
    add(made, "huge", "image", np.random.default_rng(0).uniform(2e38, 3e38, (20, 64)), seed=5)
    with pytest.raises(UsageError, match="huge and words: the loss of a linear map is not finite"):
        ease_of_store(made, image=["huge"], device="cpu")


def test_the_command(run, store, tmp_path):
    out, plot = tmp_path / "ease.json", tmp_path / "ease.svg"
    code, said, _ = run("bench", "ease", "--instances", 20, "--out", out, "--plot", plot)
    assert code == 0
    report = EaseReport.from_json(out.read_text(encoding="utf-8"), where="out")
    assert f"{report.metrics['cka']['pearson'].value:.3f}" in said
    assert max(len(line) for line in said.splitlines() if not line.startswith("written")) <= 80
    svg = plot.read_text(encoding="utf-8")
    assert svg.startswith("<svg")
    assert svg.count("<use") >= 20
    _, said, _ = run("bench", "ease", "--store", store.path, "--sample", 30, "--json")
    assert json.loads(said)["vectors"] == 30


@pytest.mark.parametrize(
    ("options", "words", "wanted"),
    [
        (["--image", "vision"], "option of a store", 2),
        (["--split", "test"], "option of a store", 2),
        (["--language", "de"], "option of a store", 2),
        (["--store", "x", "--instances", "9"], "option of toy worlds", 2),
        (["--plot", "nowhere/x.svg"], "cannot write the file", 2),
        (["--store", "nowhere"], "no store here", 1),
    ],
)
def test_the_command_refuses(run, options, words, wanted):
    code, _, said = run("bench", "ease", *options)
    assert code == wanted
    assert words in said

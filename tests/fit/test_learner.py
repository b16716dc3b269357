"""A learner by itself: what it draws at random follows from its seed and step, whoever learns beside it."""

import pytest
import torch

from embedstore.fit import fit_config
from embedstore.fit.data import training_data
from embedstore.fit.learner import Learner
from embedstore.fit.randomness import generators, seed_generators, seed_step
from embedstore.fit.record import head_record
from embedstore.testing.stores import write_random_store

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_random_store(tmp_path_factory.mktemp("learner") / "store", images=40)


def config(**options):
    small = {"width": 16, "epochs": 2, "batch_size": 10, "dropout": 0.3}
    return fit_config(**{"image": "vision", "text": "words", **small, **options})


def learners(store, *configs):
    stream, _ = training_data(store, config())
    return stream, [
        Learner(head_record(store, each), each, device=CPU, epoch_steps=stream.steps) for each in configs
    ]


def weights_after(store, *configs, disturb=lambda: None):
    stream, some = learners(store, *configs)
    for epoch in range(2):
        with stream.epoch(epoch) as batches:
            for batch in batches:
                for learner in some:
                    disturb()
                    learner.head.train()
                    learner.learn(batch)
    return [dict(learner.head.state_dict()) for learner in some]


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_learners_side_by_side_learn_what_each_learns_alone(store):
    configs = [config(), config(seed=3), config(dropout=0.1)]
    alone = [weights_after(store, each)[0] for each in configs]
    together = weights_after(store, *configs, disturb=lambda: torch.rand(3))
    assert all(same(a, b) for a, b in zip(alone, together, strict=True))
    assert not same(alone[0], alone[1])


def test_every_step_and_every_seed_draws_anew():
    drawn = []
    for seed, step in [(0, 0), (0, 1), (1, 0), (0, 0)]:
        seed_step(generators(CPU), seed=seed, step=step)
        drawn.append(torch.rand(8).tolist())
    assert drawn[0] == drawn[3]
    assert len({tuple(row) for row in drawn}) == 3


def test_setting_the_generators_is_what_torch_does():
    torch.manual_seed(11)
    wanted = torch.get_rng_state()
    seed_generators(generators(CPU), 11)
    assert torch.equal(torch.get_rng_state(), wanted)

"""What a dry run advises where the disk is too small."""

import pytest

from embedstore.encode import dry_run
from embedstore.encode.dry_run import FeaturePrediction
from embedstore.encode.features import ImageJob, TextJob
from embedstore.store import feature_nbytes, plan_feature
from embedstore.testing.stores import random_card, random_plan


@pytest.fixture(scope="module")
def planned():
    """A plan with an image and a text feature, and what they are predicted to take."""
    plan = random_plan(images=1000, captions=2)
    jobs = [
        ImageJob(
            header=plan_feature(name="v", plan=plan, card=random_card("image", width=64, tokens=256)),
            encoder=None,
        ),
        TextJob(
            header=plan_feature(name="w", plan=plan, card=random_card("text", width=64, tokens=16)),
            encoder=None,
        ),
    ]
    predictions = [
        FeaturePrediction(
            name=job.header.name,
            rows=job.header.rows,
            missing=job.header.rows,
            nbytes=feature_nbytes(job.header, tokens_per_row=5.0),
            rate=1.0,
            seconds=1.0,
        )
        for job in jobs
    ]
    return plan, jobs, predictions


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (1.0, None),
        (0.99, "--policy int8 would fit"),
        (0.45, "--policy merge-64 would fit"),
        (0.1, "--policy merge-8"),
        (0.001, "at any policy"),
    ],
)
def test_the_policy_of_the_least_loss_that_fits_is_advised(planned, share, said):
    plan, jobs, predictions = planned
    free = int(share * sum(p.nbytes for p in predictions))
    advice = dry_run._advice(plan, jobs, predictions, free)
    assert (advice is None) if said is None else (said in advice)

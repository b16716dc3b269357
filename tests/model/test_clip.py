"""The surface of open_clip's models: the same embeddings as `embedstore.load`, through tensors."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

import embedstore
from embedstore.errors import UsageError
from embedstore.model import load_clip

TEXTS = ["picture a", "it is z again", "b"]


@pytest.fixture(scope="module")
def triple(head_dir):
    return load_clip(head_dir, device="cpu")


@pytest.fixture(scope="module")
def opened(pictures):
    return [Image.open(path).copy() for path in sorted(pictures.glob("*.png"))[:5]]


def test_it_encodes_as_the_model_does(triple, head_dir, opened):
    model, transform, tokenizer = triple
    wanted = embedstore.load(head_dir, device="cpu")
    batch = torch.stack([transform(picture) for picture in opened])
    assert (batch.shape, batch.dtype) == ((5, 3, 28, 28), torch.float32)
    images = model.encode_image(batch, normalize=True)
    torch.testing.assert_close(images, torch.from_numpy(wanted.encode_image(opened)))
    ids = tokenizer(TEXTS)
    assert (ids.dtype, len(ids)) == (torch.int64, 3)
    texts = model.encode_text(ids.to("cpu"))
    torch.testing.assert_close(texts, torch.from_numpy(wanted.encode_text(TEXTS)))
    padded = model.encode_text(tokenizer(TEXTS, context_length=20))
    torch.testing.assert_close(padded, texts)
    torch.testing.assert_close(tokenizer("b"), tokenizer(["b"]))
    assert (images @ texts.T).requires_grad is False
    functional.normalize(images, dim=-1).add_(1)

    logits, turned = model.get_logits(batch, ids)
    torch.testing.assert_close(logits, wanted.logit_scale * images @ texts.T)
    torch.testing.assert_close(turned, logits.T)
    seen, read, scale = model(batch, ids)
    assert scale.item() == pytest.approx(wanted.logit_scale)
    assert model.logit_scale.item() == pytest.approx(math.log(wanted.logit_scale))
    torch.testing.assert_close((seen, read), (images, texts))
    assert model(text=ids)[0] is None
    assert model.output_dim == images.shape[1] == 8


def test_mixed_precision_around_it_changes_nothing(triple, opened):
    model, transform, tokenizer = triple
    batch, ids = transform(opened[0]).unsqueeze(0), tokenizer(TEXTS)
    wanted = model.encode_image(batch), model.encode_text(ids)
    with torch.no_grad(), torch.autocast("cpu", enabled=True):
        found = model.encode_image(batch), model.encode_text(ids)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_it_stays_frozen_and_where_it_is(triple):
    model, _, _ = triple
    assert model.eval() is model
    assert model.train().training is False
    assert model.to("cpu") is model
    assert model.to(device="cpu", dtype=torch.float16).logit_scale.dtype == torch.float32
    with pytest.raises(UsageError, match=r"(?s)another device.*load_clip\(\.\.\., device='cuda'\)"):
        model.to("cuda")
    assert list(model.parameters()) == []


def test_inputs_that_are_not_its_own_are_refused(triple):
    model, _, tokenizer = triple
    with pytest.raises(UsageError, match=r"(?s)another size.*\(28, 28\)"):
        model.encode_image(torch.zeros(1, 3, 32, 32))
    with pytest.raises(UsageError, match="not a batch of pictures"):
        model.encode_image(torch.zeros(3, 28, 28))
    with pytest.raises(UsageError, match="not a batch of token ids"):
        model.encode_text(torch.zeros(1, 4))
    with pytest.raises(UsageError, match=r"(?s)context_length.*or more"):
        tokenizer(["quite some words"], context_length=2)
    assert tokenizer([]).shape == (0, 0)
    assert model.encode_text(tokenizer([])).shape == (0, 8)
    assert model.encode_image(torch.zeros(0, 3, 28, 28)).shape == (0, 8)


def test_the_transform_goes_through_pickle_without_the_model(triple, opened):
    content = pickle.dumps(triple.transform)
    assert len(content) < 20_000
    again = pickle.loads(content)  # noqa: S301 - made above
    torch.testing.assert_close(again(opened[0]), triple.transform(opened[0]))


def test_open_clips_own_zero_shot_classifier(triple, opened):
    from open_clip import build_zero_shot_classifier

    model, transform, tokenizer = triple
    classes, templates = ["a", "z", "k"], ["picture {}", "it is {} again"]
    weights = build_zero_shot_classifier(model, tokenizer, classes, templates, num_classes_per_batch=2)
    assert weights.shape == (8, 3)
    prompts = model.encode_text(tokenizer([form.format("z") for form in templates]))
    torch.testing.assert_close(weights[:, 1], functional.normalize(prompts.mean(dim=0), dim=0))
    scores = model.encode_image(torch.stack([transform(picture) for picture in opened])) @ weights
    assert np.isfinite(scores.numpy()).all()

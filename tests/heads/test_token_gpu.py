"""The head on a CUDA device gives what it gives on the host."""

from __future__ import annotations

import copy

import pytest
import torch

from embedstore.heads.token import TokenHead
from embedstore.testing.heads import head_config

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


def test_embeddings_and_gradients_agree_with_the_host():
    torch.manual_seed(0)
    tokens, prefix, words = (
        torch.randn(4, 9, 16).half(),
        torch.randn(4, 1, 16).half(),
        torch.randn(11, 12).half(),
    )
    offsets = torch.tensor([0, 3, 4, 9, 11])
    host = TokenHead(head_config(dropout=0.0))
    found = []
    for device in ("cpu", "cuda"):
        head = copy.deepcopy(host).to(device)
        image = head.embed_image(tokens.to(device), prefix.to(device))
        text = head.embed_text(words.to(device), offsets)
        (image @ text.T).diagonal().sum().backward()
        found.append([t.detach().cpu() for t in (image, text, *(p.grad for p in head.parameters()))])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-4)

"""Every head and its options against slow float64 NumPy twins, and their gradients by finite differences."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from embedstore.heads.base import build_head
from embedstore.heads.second_order import squared_distances, symmetric_log
from embedstore.testing.heads import head_config

OFFSETS = torch.tensor([0, 3, 4, 9, 11])
erf = np.vectorize(math.erf)


def batch(seed=0, b=4, t=9, d=16, text_d=12, dtype=torch.float32):
    """Patches, prefix of three, packed words of four texts."""
    g = torch.Generator().manual_seed(seed)
    return (
        torch.randn(b, t, d, generator=g, dtype=dtype),
        torch.randn(b, 3, d, generator=g, dtype=dtype),
        torch.randn(11, text_d, generator=g, dtype=dtype),
    )


def shares_of(b=4, t=9):
    """Unequal shares of a picture, one of them 0."""
    g = torch.Generator().manual_seed(2)
    found = torch.rand(b, t, generator=g)
    found[:, 3] = 0.0
    return found / found.sum(1, keepdim=True)


def made(head, *, dtype=torch.float32, seed=0, width=12, dropout=0.0, **config):
    """A head whose norms, too, are away from their first values."""
    torch.manual_seed(seed)
    module = build_head(head_config(head=head, width=width, dropout=dropout, **config))
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.4)
    return module.to(dtype)


def weights(module):
    return {k: v.detach().numpy().astype(np.float64) for k, v in module.state_dict().items()}


def linear(w, name, x):
    y = x @ w[f"{name}.weight"].T
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def norm(w, name, x, eps=1e-5):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
    return x * w[f"{name}.weight"] + w[f"{name}.bias"]


def gelu(x):
    return x * 0.5 * (1 + erf(x / math.sqrt(2)))


def softmax(x, axis=0):
    x = np.exp(x - x.max(axis, keepdims=True))
    return x / x.sum(axis, keepdims=True)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def token_projector(w, name, x):
    x = norm(w, f"{name}.norm", x)
    hidden = linear(w, f"{name}.out", gelu(linear(w, f"{name}.hidden", x)))
    return linear(w, f"{name}.linear", x) + hidden


def mlp_projector(w, name, x):
    h = linear(w, f"{name}.first", x)
    return norm(w, f"{name}.norm", h + linear(w, f"{name}.second", gelu(h)))


def linear_projector(w, name, x):
    return linear(w, f"{name}.linear", x)


PROJECTORS = {
    "token": token_projector,
    "mlp": mlp_projector,
    "linear": linear_projector,
    "identity": lambda _w, _name, x: x,
}


def projected_text(w, words, prefix="", sides=("token", "mlp")):
    means = [PROJECTORS[sides[0]](w, f"{prefix}text_token", part).mean(0) for part in texts_of(words)]
    return unit(PROJECTORS[sides[1]](w, f"{prefix}text_global", np.stack(means)))


def np_token_image(w, tokens, cls, weight, *, local, image_cls, pooling, prefix=""):
    """`tokens (t, d)` of one picture, `cls (d,)`, its shares `(t,)`."""
    found = 0.0
    if local != "identity":
        projected = PROJECTORS[local](w, f"{prefix}image_local", tokens)
        found = projected[weight > 0].max(0) if pooling == "max" else weight @ projected
    if image_cls != "identity":
        found = found + PROJECTORS[image_cls](w, f"{prefix}image_cls", cls)
    return unit(found)


def texts_of(words):
    return np.split(words, OFFSETS[1:-1].tolist())


def check_slope(module, loss):
    """The gradient in a random direction of all weights against a central difference, in float64."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    g = torch.Generator().manual_seed(3)
    way = [torch.randn(p.shape, generator=g, dtype=p.dtype) for p in parameters]
    grads = torch.autograd.grad(loss(), parameters)
    wanted = sum((a * b).sum() for a, b in zip(grads, way, strict=True))
    sides = []
    with torch.no_grad():
        for step in (1e-6, -2e-6):
            for p, direction in zip(parameters, way, strict=True):
                p.add_(direction, alpha=step)
            sides.append(loss())
    torch.testing.assert_close((sides[0] - sides[1]) / 2e-6, wanted, rtol=1e-5, atol=1e-7)


def np_sail(w, side, x):
    x = norm(w, f"{side}.norm", x)
    gate = np.clip(linear(w, f"{side}.gate", x), 0, 6)
    return unit(linear(w, f"{side}.out", gate * linear(w, f"{side}.value", x)))


def np_block(w, name, x, heads):
    h = norm(w, f"{name}.norm_attention", x)
    q, k, v = np.split(linear(w, f"{name}.qkv", h), 3, axis=-1)
    size = x.shape[-1] // heads
    mixed = []
    for i in range(heads):
        cut = slice(i * size, (i + 1) * size)
        mixed.append(softmax(q[:, cut] @ k[:, cut].T / math.sqrt(size), axis=1) @ v[:, cut])
    x = x + linear(w, f"{name}.mix", np.concatenate(mixed, axis=-1))
    return x + linear(w, f"{name}.down", gelu(linear(w, f"{name}.up", norm(w, f"{name}.norm_mlp", x))))


def np_dinotxt(w, sequence, prefix, blocks=2, heads=4, project=True):
    for k in range(blocks):
        sequence = np_block(w, f"blocks.{k}", sequence, heads=heads)
    sequence = norm(w, "norm", sequence)
    both = np.concatenate([sequence[0], sequence[prefix:].mean(0)])
    return unit(linear(w, "project", both) if project else both)


def np_reduced(w, side, sets, anchors, heads, weigh_first):
    """Attention and the reduced tokens before any norm, of each sample and head."""
    cut = len(w[f"{side}.project.weight"]) // heads
    for x, anchor in zip(sets, anchors, strict=True):
        y, a = linear(w, f"{side}.project", x), linear(w, f"{side}.project", anchor)
        for k in range(heads):
            own, mine = y[:, k * cut : (k + 1) * cut], a[k * cut : (k + 1) * cut]
            attention = softmax(unit(own) @ unit(mine))[:, None]
            yield attention, linear(w, f"{side}.reduce", own * (attention if weigh_first else 1))


def np_bdc(x):
    d = ((x[:, :, None] - x[:, None, :]) ** 2).sum(0)
    a = np.sqrt(d / (2 * len(x)) + 1e-5)
    return a - a.mean(0, keepdims=True) - a.mean(1, keepdims=True) + a.mean()


def np_kspd(x):
    d = ((x[:, :, None] - x[:, None, :]) ** 2).sum(0)
    values, vectors = np.linalg.eigh(np.exp(-d / max(2 * d.mean(), 1e-30)) + 1e-3 * np.eye(len(d)))
    return vectors @ np.diag(np.log(values)) @ vectors.T


def np_second(w, side, sets, anchors, *, kind, heads, convention, running):
    found = list(np_reduced(w, side, sets, anchors, heads, convention == "dalip"))
    triangle = np.triu_indices(w[f"{side}.reduce.weight"].shape[0])
    for k in range(heads):
        of_head = np.concatenate([z for _, z in found[k::heads]])
        for i in range(k, len(found), heads):
            attention, z = found[i]
            if side == "image_second":
                r = z.shape[1]
                cut = slice(k * r, (k + 1) * r)
                name = f"{side}.norm"
                mean, var = (
                    (w[f"{name}.running_mean"][cut], w[f"{name}.running_variance"][cut])
                    if running
                    else (of_head.mean(0), of_head.var(0))
                )
                z = (z - mean) / np.sqrt(var + 1e-5) * w[f"{name}.weight"][cut] + w[f"{name}.bias"][cut]
            else:
                z = norm(w, f"{side}.norm", z)
            found[i] = np.maximum(z, 0) * (1 if convention == "dalip" else attention)
    rows = []
    for i in range(len(sets)):
        own = found[i * heads : (i + 1) * heads]
        if kind == "mp":
            rows.append(np.concatenate([(a.T @ b / len(a)).ravel() for a, b in itertools.pairwise(own)]))
        else:
            matrix = np_kspd if kind == "kspd" else np_bdc
            rows.append(np.concatenate([matrix(x)[triangle] for x in own]))
    y = norm(w, f"{side}.out.0", np.stack(rows), eps=1e-7)
    return unit(linear(w, f"{side}.out.2", linear(w, f"{side}.out.1", y)))


SIDES = [
    ("mlp", "identity", "identity", "identity"),
    ("token", "identity", "identity", "identity"),
    ("token", "identity", "identity", "mlp"),
    ("token", "identity", "token", "identity"),
    ("token", "identity", "token", "mlp"),
    ("identity", "token", "token", "mlp"),
    ("token", "token", "token", "mlp"),
    ("linear", "mlp", "mlp", "linear"),
    ("mlp", "linear", "linear", "token"),
]


def sided(sides):
    return dict(zip(("image_local", "image_cls", "text_token", "text_global"), sides, strict=True))


@pytest.mark.parametrize("merged", [False, True], ids=["plain", "merged"])
@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize("sides", SIDES, ids="-".join)
def test_token_is_its_formula(sides, pooling, merged):
    tokens, prefix, words = batch()
    head = made("token", image_pooling=pooling, **sided(sides)).eval()
    w, shares = weights(head), shares_of() if merged else None
    each = np.full((4, 9), 1 / 9) if shares is None else shares.double().numpy()
    wanted = [
        np_token_image(w, t, c, s, local=sides[0], image_cls=sides[1], pooling=pooling)
        for t, c, s in zip(tokens.double().numpy(), prefix[:, 0].double().numpy(), each, strict=True)
    ]
    np.testing.assert_allclose(head.embed_image(tokens, prefix, weights=shares).detach(), wanted, atol=1e-5)
    np.testing.assert_allclose(
        head.embed_text(words, OFFSETS).detach(),
        projected_text(w, words.double().numpy(), sides=sides[2:]),
        atol=1e-5,
    )


@pytest.mark.parametrize("sides", SIDES, ids="-".join)
def test_single_patches_and_words_are_their_formula(sides):
    tokens, prefix, words = batch()
    head = made("token", **sided(sides)).eval()
    w = weights(head)
    found = head.embed_words(words, OFFSETS).detach()
    each = PROJECTORS[sides[2]](w, "text_token", words.double().numpy())
    np.testing.assert_allclose(found, unit(PROJECTORS[sides[3]](w, "text_global", each)), atol=1e-5)
    if sides[0] == "identity":
        return
    found = head.embed_patches(tokens, prefix).detach()
    wanted = PROJECTORS[sides[0]](w, "image_local", tokens.double().numpy())
    if sides[1] != "identity":
        wanted = wanted + PROJECTORS[sides[1]](w, "image_cls", prefix[:, :1].double().numpy())
    np.testing.assert_allclose(found, unit(wanted), atol=1e-5)


@pytest.mark.parametrize("merged", [False, True], ids=["plain", "merged"])
@pytest.mark.parametrize("expansion", [8, 3])
def test_sail_is_its_formula(expansion, merged):
    tokens, prefix, words = batch()
    head = made("sail", text_pooling="mean", options={"expansion": expansion}).eval()
    w, shares = weights(head), shares_of() if merged else None
    each = np.full((4, 9), 1 / 9) if shares is None else shares.double().numpy()
    means = np.einsum("bt,btd->bd", each, tokens.double().numpy())
    both = np.concatenate([prefix[:, 0].double(), means], axis=1)
    np.testing.assert_allclose(
        head.embed_image(tokens, prefix, weights=shares).detach(), np_sail(w, "image", both), atol=1e-5
    )
    means = np.stack([part.mean(0) for part in texts_of(words.double().numpy())])
    np.testing.assert_allclose(head.embed_text(words, OFFSETS).detach(), np_sail(w, "text", means), atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"head_width": 4},
        {"head_width": 8, "blocks": 1, "expansion": 2},
        {"head_width": 16, "blocks": 0, "project": False},
        {"head_width": 4, "blocks": 3, "project": False},
    ],
    ids=["usual", "one-block", "no-block", "no-map"],
)
def test_dinotxt_is_its_formula(options):
    tokens, prefix, words = batch()
    head = made("dinotxt", width=12 if options.get("project", True) else 32, options=options).eval()
    w = weights(head)
    form = {
        "blocks": options.get("blocks", 2),
        "heads": 16 // options["head_width"],
        "project": options.get("project", True),
    }
    wanted = [
        np_dinotxt(w, np.concatenate([prefix[i].double(), tokens[i].double()]), prefix=3, **form)
        for i in range(4)
    ]
    np.testing.assert_allclose(head.embed_image(tokens, prefix).detach(), wanted, atol=1e-5)
    np.testing.assert_allclose(
        head.embed_text(words, OFFSETS).detach(), projected_text(w, words.double().numpy()), atol=1e-5
    )


@pytest.mark.parametrize("running", [False, True], ids=["training", "testing"])
@pytest.mark.parametrize("convention", ["ours", "dalip"])
@pytest.mark.parametrize(("kind", "heads"), [("mbdc", 4), ("bdc", 1), ("mp", 3), ("kspd", 2)])
def test_dalip_is_its_formula(kind, heads, convention, running):
    tokens, prefix, words = batch()
    options = {"second": kind, "heads": heads, "reduced": 5, "convention": convention, "channel_dropout": 0.0}
    head = made("dalip", options=options)
    head.image_second.norm.running_mean.normal_()
    head.image_second.norm.running_variance.uniform_(0.5, 2)
    w = weights(head)
    head.train(not running)
    setting = {"kind": kind, "heads": heads, "convention": convention, "running": running}
    sets, texts = tokens.double().numpy(), texts_of(words.double().numpy())
    second = np_second(w, "image_second", sets, prefix[:, 0].double().numpy(), **setting)
    local = token_projector(w, "first.image_local", sets).mean(1)
    first = unit(local + token_projector(w, "first.image_cls", prefix[:, 0].double().numpy()))
    wanted = np.concatenate([math.sqrt(0.4) * first, math.sqrt(0.6) * second], axis=1)
    np.testing.assert_allclose(head.embed_image(tokens, prefix).detach(), wanted, atol=1e-5)
    second = np_second(w, "text_second", texts, [t[-1] for t in texts], **setting)
    first = projected_text(w, words.double().numpy(), "first.")
    wanted = np.concatenate([math.sqrt(0.4) * first, math.sqrt(0.6) * second], axis=1)
    np.testing.assert_allclose(head.embed_text(words, OFFSETS).detach(), wanted, atol=1e-5)


@pytest.mark.parametrize("text_anchor", ["last", "first", "mean"])
@pytest.mark.parametrize("image_anchor", ["cls", "mean"])
@pytest.mark.parametrize("lambda1", [0.0, 0.3])
def test_dalips_anchors_and_weights_are_their_formula(lambda1, image_anchor, text_anchor):
    tokens, prefix, words = batch()
    options = {
        "heads": 2, "reduced": 5, "channel_dropout": 0.0, "lambda1": lambda1,
        "image_anchor": image_anchor, "text_anchor": text_anchor,
    }  # fmt: skip
    head = made("dalip", options=options).eval()
    w, setting = weights(head), {"kind": "mbdc", "heads": 2, "convention": "ours", "running": True}
    sets, cls = tokens.double().numpy(), prefix[:, 0].double().numpy()
    anchors = cls if image_anchor == "cls" else sets.mean(1)
    image = np_second(w, "image_second", sets, anchors, **setting)
    texts = texts_of(words.double().numpy())
    chosen = {"last": lambda t: t[-1], "first": lambda t: t[0], "mean": lambda t: t.mean(0)}[text_anchor]
    text = np_second(w, "text_second", texts, [chosen(t) for t in texts], **setting)
    if lambda1:
        local = token_projector(w, "first.image_local", sets).mean(1)
        first = (
            unit(local + token_projector(w, "first.image_cls", cls)),
            projected_text(w, words.double().numpy(), "first."),
        )
        image, text = (
            np.concatenate([math.sqrt(lambda1) * a, math.sqrt(1 - lambda1) * b], axis=1)
            for a, b in zip(first, (image, text), strict=True)
        )
    np.testing.assert_allclose(head.embed_image(tokens, prefix).detach(), image, atol=1e-5)
    np.testing.assert_allclose(head.embed_text(words, OFFSETS).detach(), text, atol=1e-5)


def test_batch_norm_keeps_running_statistics_as_torch_does():
    tokens, prefix, _ = batch()
    head = made("dalip", options={"reduced": 5, "channel_dropout": 0.0}).train()
    inner, seen = head.image_second, []
    inner.norm.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    head.embed_image(tokens, prefix)
    twin = torch.nn.BatchNorm1d(20)
    with torch.no_grad():
        twin.weight.copy_(inner.norm.weight)
        twin.bias.copy_(inner.norm.bias)
        wanted = twin(seen[0])
        torch.testing.assert_close(inner.norm.running_mean, twin.running_mean)
        torch.testing.assert_close(inner.norm.running_variance, twin.running_var)
        found = made("dalip", options={"reduced": 5}).image_second.norm
        found.load_state_dict(inner.norm.state_dict())
        found.train()
        shares = torch.full((36,), 1 / 36)
        torch.testing.assert_close(found(seen[0], shares, 36.0), wanted, rtol=1e-5, atol=1e-5)


KINDS = [
    *[("token", {}, sided(sides)) for sides in SIDES], ("token", {}, {"image_pooling": "max"}),
    ("sail", {}, {}), ("sail", {"expansion": 2}, {}),
    ("dinotxt", {"head_width": 4}, {}),
    ("dinotxt", {"head_width": 16, "blocks": 1, "project": False}, {"width": 32}),
    ("dalip", {"reduced": 5}, {}), ("dalip", {"reduced": 5, "convention": "dalip"}, {}),
    ("dalip", {"reduced": 5, "second": "bdc"}, {}), ("dalip", {"reduced": 5, "second": "mp"}, {}),
    ("dalip", {"reduced": 5, "lambda1": 0.0, "image_anchor": "mean", "text_anchor": "first"}, {}),
    ("dalip", {"reduced": 5, "text_anchor": "mean", "heads": 1}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "more"), KINDS, ids=lambda v: v if isinstance(v, str) else "")
@pytest.mark.parametrize("shares", [False, True], ids=["plain", "merged"])
def test_gradients_agree_with_finite_differences(name, options, more, shares):
    tokens, prefix, words = batch(dtype=torch.float64)
    head = made(name, dtype=torch.float64, dropout=0.2, options=options, text_pooling="mean", **more).train()
    weight = torch.rand(4, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    weight = weight / weight.sum(1, keepdim=True) if shares else None
    way = torch.randn(4, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    def loss():
        torch.manual_seed(7)
        image, text = head.embed_image(tokens, prefix, weights=weight), head.embed_text(words, OFFSETS)
        return (image @ text.T * way).sum()

    check_slope(head, loss)


def test_the_gradient_of_kspd_is_that_with_its_spread_held(monkeypatch):
    tokens, prefix, words = batch(dtype=torch.float64)
    # With dropped channels there would be eigenvalues at the ridge.
    options = {"reduced": 5, "second": "kspd", "channel_dropout": 0.0}
    head = made("dalip", dtype=torch.float64, options=options).train()

    def loss():
        return (head.embed_image(tokens, prefix) @ head.embed_text(words, OFFSETS).T).square().sum()

    found = torch.autograd.grad(loss(), list(head.parameters()))
    held = []

    def with_held_spread(x):
        squared = squared_distances(x)
        # Pictures, of nine places, come first.
        side = int(x.shape[2] != 9)
        if side == len(held):
            held.append(squared.detach().mean(dim=(-2, -1), keepdim=True))
        kernel = (squared / (-2 * held[side])).exp()
        return symmetric_log(kernel + 1e-3 * torch.eye(5, dtype=x.dtype))

    monkeypatch.setattr("embedstore.heads.distribution.kspd_matrix", with_held_spread)
    for a, b in zip(found, torch.autograd.grad(loss(), list(head.parameters())), strict=True):
        torch.testing.assert_close(a, b)
    check_slope(head, loss)


@pytest.mark.parametrize("second", ["mbdc", "bdc", "mp", "kspd"])
def test_one_patch_one_token_and_identical_channels_train(second):
    options = {"second": second, "reduced": 5, "lambda1": 0.0}
    head = made("dalip", options=options)
    with torch.no_grad():
        head.image_second.reduce.weight.copy_(head.image_second.reduce.weight[:1].expand(5, -1))
        head.text_second.reduce.weight.zero_()
    tokens, prefix, words = batch(t=1)
    image = head.embed_image(tokens, prefix)
    text = head.embed_text(words[:4], torch.arange(5))
    (image * text).sum().backward()
    assert torch.isfinite(image).all()
    assert torch.isfinite(text).all()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())

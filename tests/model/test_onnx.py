"""A head as ONNX graphs: run by onnxruntime alone, and compared with what the head gives elsewhere."""

from __future__ import annotations

import builtins
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from embedstore.errors import HeadError, MissingExtraError, UsageError
from embedstore.fit import fit_config, fit_head
from embedstore.heads.base import build_head
from embedstore.model.fitted import FittedHead, load_head
from embedstore.model.onnx import export_onnx
from embedstore.testing.heads import head_config
from embedstore.testing.stores import write_random_store


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("onnx")
    store = write_random_store(place / "store", images=30)
    chosen = fit_config(image="vision", text="words", width=8, epochs=1, batch_size=10)
    return fit_head(store, chosen, place / "head", device="cpu").out


def unfitted(**fields) -> FittedHead:
    torch.manual_seed(0)
    config = head_config(**fields)
    module = build_head(config).eval().requires_grad_(requires_grad=False)
    return FittedHead(config=config, module=module, sha256="0" * 64, device=torch.device("cpu"))


def test_the_command_writes_two_graphs_that_onnxruntime_runs(run, folder, tmp_path):
    out = tmp_path / "graphs"
    code, said, _ = run("onnx", folder, "--out", out, "--json")
    assert code == 0
    assert sorted(path.name for path in out.iterdir()) == ["image.onnx", "text.onnx"]
    image, text = json.loads(said)
    assert image["inputs"] == {"tokens": ["batch", "tokens", 16], "prefix": ["batch", 1, 16]}
    assert text["inputs"] == {"tokens": ["batch", "tokens", 12], "mask": ["batch", "tokens"]}
    assert image["output"] == text["output"] == ["batch", 8]
    assert max(image["difference"], text["difference"]) < 1e-5

    head = load_head(folder)
    rng = np.random.default_rng(0)
    tokens, prefix = rng.normal(size=(7, 5, 16)), rng.normal(size=(7, 1, 16))
    tokens, prefix = tokens.astype(np.float32), prefix.astype(np.float32)
    session = onnxruntime.InferenceSession(out / "image.onnx")
    (found,) = session.run(["embedding"], {"tokens": tokens, "prefix": prefix})
    wanted = head.module.embed_image(torch.from_numpy(tokens), torch.from_numpy(prefix))
    np.testing.assert_allclose(found, wanted, atol=1e-5)

    words, lengths = rng.normal(size=(3, 6, 12)).astype(np.float32), np.array([6, 1, 4])
    mask = np.arange(6) < lengths[:, None]
    words[~mask] = np.nan
    session = onnxruntime.InferenceSession(out / "text.onnx")
    (found,) = session.run(None, {"tokens": words, "mask": mask})
    packed, offsets = torch.from_numpy(words[mask]), torch.tensor([0, 6, 7, 11])
    np.testing.assert_allclose(found, head.module.embed_text(packed, offsets), atol=1e-5)

    about = {p.key: p.value for p in onnx.load(out / "text.onnx").metadata_props}
    assert about["embedstore.head_sha256"] == head.sha256
    assert about["embedstore.weights_sha256"] == head.config.weights_sha256
    assert json.loads(about["embedstore.card"]) == head.config.text_card.model_dump(mode="json")
    assert float(about["embedstore.logit_scale"]) == pytest.approx(1 / head.config.temperature)

    code, _, said = run("onnx", folder, "--out", out)
    assert code == 2
    assert "files are already here" in said
    assert "--overwrite" in said


@pytest.mark.parametrize(
    "fields",
    [
        {"head": "dalip", "options": {"heads": 2, "reduced": 3}, "image_shrink": "merge-4"},
        {"head": "sail", "text_pooling": "pooled"},
        {"head": "dinotxt", "options": {"blocks": 1}},
    ],
    ids=lambda fields: fields["head"],
)
def test_every_head_agrees(fields, tmp_path):
    graphs = export_onnx(unfitted(**fields), tmp_path, opset=18, patches=fields["head"] == "sail")
    assert all(graph.difference < 1e-5 for graph in graphs)
    image, text = graphs[:2]
    assert ("weights" in image.inputs) == ("image_shrink" in fields)
    assert ("pooled" in text.inputs) == ("text_pooling" in fields)
    if len(graphs) == 3:
        assert graphs[2].output == ("batch", "tokens", 10)
    assert {
        opset.version for opset in onnx.load(tmp_path / "text.onnx").opset_import if not opset.domain
    } == {18}


def test_a_head_that_onnx_cannot_compute_is_refused_and_nothing_is_left(tmp_path):
    head = unfitted(head="dalip", options={"heads": 2, "reduced": 3, "second": "kspd"})
    with pytest.raises(HeadError, match=r"(?s)'kspd' cannot be exported.*eigenvalues.*mbdc"):
        export_onnx(head, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_graph_that_disagrees_is_refused(tmp_path, monkeypatch):
    from embedstore.model import onnx as module

    small = unfitted(head="token", image_local="identity", image_cls="linear")
    monkeypatch.setattr(module, "_difference", lambda *_: float("nan"))
    with pytest.raises(HeadError, match=r"(?s)image\.onnx: .*does not agree.*nan"):
        export_onnx(small, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_options_that_cannot_be_meant(folder, tmp_path):
    with pytest.raises(UsageError, match="18 to 23"):
        export_onnx(folder, tmp_path / "out", opset=9)
    with pytest.raises(HeadError, match="no finished head"):
        export_onnx(tmp_path, tmp_path / "out")


def test_without_the_extra_it_says_the_line(folder, tmp_path, monkeypatch):
    found = builtins.__import__

    def absent(name, *rest, **named):
        if name == "onnxruntime":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return found(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingExtraError, match=r"(?s)'onnxruntime'.*pip install 'embedstore\[onnx\]'"):
        export_onnx(folder, tmp_path / "out")

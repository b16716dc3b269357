"""A store of real tiny encoders over pictures with captions, and heads fitted on it."""

import pytest

from embedstore.documents import FitConfig
from embedstore.encode import EncodeOptions, encode_source
from embedstore.fit import fit_head
from embedstore.store import open_store


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    import numpy as np
    from PIL import Image

    root = tmp_path_factory.mktemp("model") / "pictures"
    root.mkdir()
    rng = np.random.default_rng(0)
    lines = ["image,caption,split"]
    for k in range(24):
        Image.fromarray(rng.integers(0, 256, (36, 40, 3), np.uint8)).save(root / f"{k:03d}.png")
        lines += [f"{k:03d}.png,picture {chr(97 + k)},train", f"{k:03d}.png,it is {chr(122 - k)} again,train"]
    (root / "captions.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def encoded(pictures, tiny_vision, tiny_words, tmp_path_factory):
    place = tmp_path_factory.mktemp("encoded") / "store"
    encode_source(
        str(pictures / "captions.csv"),
        place,
        image_encoders=[f"vision=hf:{tiny_vision}"],
        text_encoders=[f"words=hf:{tiny_words}?max_length=12"],
        options=EncodeOptions(device="cpu"),
    )
    return open_store(place)


@pytest.fixture(scope="session")
def fitted():
    return fit_small


def fit_small(store, out, **options):
    chosen = {"width": 8, "epochs": 2, "batch_size": 8, "lr": 5e-3, **options}
    fit_head(store, FitConfig(image=chosen.pop("image", "vision"), text="words", **chosen), out, device="cpu")
    return out


@pytest.fixture(scope="session")
def head_dir(encoded, tmp_path_factory):
    return fit_small(encoded, tmp_path_factory.mktemp("heads") / "token")

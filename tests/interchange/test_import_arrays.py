"""Arrays in .npy, .npz, .pt, .safetensors and .h5 files, written by their own libraries."""

import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from embedstore.errors import MissingExtraError, SourceError, StorageValueError, UsageError
from embedstore.interchange import values as values_module
from embedstore.interchange.arrays import open_arrays
from embedstore.store import open_store, verify_store


def write(path, kind, array, ids=None, lengths=None):
    """Save by the format's own library; ids as texts where it has texts, else as numbers."""
    more = {} if lengths is None else {"lengths": lengths}
    if kind == "npy":
        np.save(path, array)
    elif kind == "npz":
        np.savez_compressed(path, embeddings=array, **({"ids": np.array(ids)} if ids else {}), **more)
    elif kind == "pt":
        tensors = {"embeddings": torch.from_numpy(array), **{k: torch.from_numpy(v) for k, v in more.items()}}
        torch.save(tensors | ({"ids": ids} if ids else {}), path)
    elif kind == "safetensors":
        tensors = {"embeddings": torch.from_numpy(array), **{k: torch.from_numpy(v) for k, v in more.items()}}
        save_file(tensors | ({"ids": torch.tensor(ids)} if ids else {}), path)
    else:
        h5py = pytest.importorskip("h5py", reason="needs the extra interchange")
        with h5py.File(path, "w") as file:
            file.create_dataset(
                "deep/embeddings", data=array, chunks=(7, *array.shape[1:]), compression="gzip"
            )
            if ids:
                file["ids"] = ids
            for name, value in more.items():
                file[name] = value
    return path


KINDS = ["npy", "npz", "pt", "safetensors", "h5"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_every_kind_brings_its_numbers(kind, dtype, tmp_path, numbers, id_list, bring):
    path = write(tmp_path / f"a.{kind}", kind, numbers.astype(dtype))
    made = bring(path, ids=str(id_list), policy="float32")
    feature = open_store(tmp_path / "new.store")["theirs"]
    assert made.new_store
    assert made.rows == len(numbers)
    assert feature.arrays == ("pooled", "status")
    np.testing.assert_array_equal(feature.read("pooled", 0, 70), numbers.astype(np.float32))
    assert verify_store(tmp_path / "new.store").sound


@pytest.mark.parametrize("kind", ["npz", "pt", "h5"])
def test_ids_may_lie_in_the_same_file(kind, tmp_path, numbers, ids, bring):
    path = write(tmp_path / f"a.{kind}", kind, numbers, ids)
    bring(path, ids="ids", key="deep/embeddings" if kind == "h5" else None)
    assert open_store(tmp_path / "new.store").images(["id"])["id"].to_pylist() == ids


def test_ids_may_be_whole_numbers(tmp_path, numbers, bring):
    path = write(tmp_path / "a.safetensors", "safetensors", numbers, list(range(100, 170)))
    bring(path, ids="ids")
    assert open_store(tmp_path / "new.store").images(["id"])["id"][1].as_py() == "101"


def test_bfloat16_is_widened(tmp_path, numbers, id_list, bring):
    tensor = torch.from_numpy(numbers).bfloat16()
    torch.save(tensor, tmp_path / "a.pt")
    save_file({"x": tensor}, tmp_path / "a.safetensors")
    for kind in ("pt", "safetensors"):
        bring(tmp_path / f"a.{kind}", ids=str(id_list), policy="float32", store=f"{kind}.store")
        stored = open_store(tmp_path / f"{kind}.store")["theirs"].read("pooled", 0, 70)
        np.testing.assert_array_equal(stored, tensor.float().numpy())


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_smaller_than_the_file_give_the_same(kind, tmp_path, numbers, id_list, bring, monkeypatch):
    path = write(tmp_path / f"a.{kind}", kind, numbers)
    whole = bring(path, ids=str(id_list), store="whole.store")
    monkeypatch.setattr(values_module, "BLOCK_BYTES", 5 * 4 * numbers.shape[1])
    small = bring(path, ids=str(id_list), store="small.store")
    assert small.weights_sha256 == whole.weights_sha256
    stored = open_store(tmp_path / "small.store")["theirs"].read("pooled", 0, 70)
    np.testing.assert_array_equal(stored, numbers)


def test_the_hash_is_of_the_numbers(tmp_path, numbers, id_list, bring):
    def sha(kind, array):
        return bring(
            write(tmp_path / f"a.{kind}", kind, array), ids=str(id_list), store=f"{kind}.s"
        ).weights_sha256

    first = sha("npy", numbers)
    assert sha("pt", numbers) == sha("safetensors", numbers) == first
    numbers[3, 4] += 1
    assert sha("npz", numbers) != first


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_of_pictures(kind, tmp_path, id_list, bring):
    tokens = np.random.default_rng(1).normal(size=(70, 5, 8)).astype(np.float16)
    made = bring(write(tmp_path / f"a.{kind}", kind, tokens), ids=str(id_list))
    feature = open_store(tmp_path / "new.store")["theirs"]
    assert made.norms is None
    assert feature.header.max_tokens == 5
    assert feature.card.grid is None
    assert feature.card.pooling == "mean of the tokens, taken at the import"
    np.testing.assert_array_equal(feature.read("tokens", 0, 70), tokens)
    wanted = tokens.astype(np.float64).mean(axis=1)
    np.testing.assert_allclose(feature.read("pooled", 0, 70), wanted, atol=2e-3)
    assert verify_store(tmp_path / "new.store").sound


@pytest.mark.parametrize("kind", ["npz", "pt", "safetensors", "h5"])
def test_tokens_of_texts_come_without_their_padding(kind, tmp_path, random_store, bring):
    random = np.random.default_rng(2)
    text_ids = random_store.texts(["id"])["id"].to_pylist()
    lengths = random.integers(1, 7, size=len(text_ids))
    tokens = random.normal(size=(len(text_ids), 6, 4)).astype(np.float32)
    tokens[np.arange(6) >= lengths[:, None]] = np.nan
    listed = tmp_path / "texts.txt"
    listed.write_text("\n".join(text_ids), encoding="utf-8")
    key = "deep/embeddings" if kind == "h5" else "embeddings"
    path = write(tmp_path / f"a.{kind}", kind, tokens, lengths=lengths)
    options = {"modality": "text", "ids": str(listed), "policy": "float32", "store": random_store.path}
    bring(path, key=key, lengths="lengths", **options)
    feature = random_store["theirs"]
    packed = feature.text_tokens(range(len(text_ids)))
    np.testing.assert_array_equal(packed.lengths, lengths)
    np.testing.assert_array_equal(packed.tokens, tokens[np.arange(6) < lengths[:, None]])
    for row in (0, 17, 99):
        wanted = tokens[row, : lengths[row]].astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(feature.read("pooled", row, row + 1)[0], wanted, atol=1e-6)
    assert verify_store(random_store.path).sound
    with pytest.raises(UsageError, match=r"(?s)which of the tokens of a text are padding.*--lengths") as bad:
        bring(path, key=key, name="again", **options)
    assert "6 token places" in str(bad.value)


def test_the_card_says_what_is_not_known(tmp_path, numbers, id_list, bring):
    np.save(tmp_path / "a.npy", numbers)
    bring(tmp_path / "a.npy", ids=str(id_list), pooling="image_embeds")
    card = open_store(tmp_path / "new.store")["theirs"].card
    assert (card.library, card.model) == ("imported", "openai/clip-vit-base-patch32")
    assert (card.architecture, card.compute_dtype, card.device_kind) == ("unknown",) * 3
    assert (card.layer, card.final_norm, card.processor, card.grid, card.versions) == (None,) * 4 + ({},)
    assert (card.width, card.pooled_width, card.pooling) == (12, 12, "image_embeds")


def test_a_hash_of_the_weights_may_be_given(tmp_path, numbers, id_list, bring):
    np.save(tmp_path / "a.npy", numbers)
    assert bring(tmp_path / "a.npy", ids=str(id_list), weights_sha256="ab" * 32).weights_sha256 == "ab" * 32
    with pytest.raises(UsageError, match="not a sha256"):
        bring(tmp_path / "a.npy", ids=str(id_list), weights_sha256="AB" * 32)


def bad_npy(path, array):
    np.save(path, array, allow_pickle=True)
    return path


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.asfortranarray(np.ones((70, 4), np.float32)), "Fortran order"),
        (np.full((70, 4), "x", object), "Python objects"),
        (np.ones((70, 4), np.int64), "must be floating numbers"),
        (np.ones((70, 4), complex), "must be floating numbers"),
        (np.ones(70, np.float32), "wrong shape"),
        (np.ones((70, 2, 2, 2), np.float32), "wrong shape"),
        (np.ones((70, 0), np.float32), "wrong shape"),
        (np.ones((69, 4), np.float32), "69 embeddings, 70 ids"),
    ],
)
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_arrays_that_are_refused(array, words, kind, tmp_path, id_list, bring):
    path = tmp_path / f"a.{kind}"
    np.save(path, array, allow_pickle=True) if kind == "npy" else np.savez(path, x=array)
    with pytest.raises(SourceError, match=words):
        bring(path, ids=str(id_list))
    assert not (tmp_path / "new.store").exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_with_their_row(
    kind, value, tmp_path, numbers, id_list, bring
):
    numbers[41, 3] = value
    path = write(tmp_path / f"a.{kind}", kind, numbers)
    with pytest.raises(SourceError, match=r"(?s)row 41, id s000041: a value is not finite") as bad:
        bring(path, ids=str(id_list))
    assert "element (3,)" in str(bad.value)
    assert not (tmp_path / "new.store").exists()


def test_a_float64_beyond_float32_is_refused(tmp_path, id_list, bring):
    array = np.ones((70, 4))
    array[7, 1] = 1e300
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(SourceError, match="row 7"):
        bring(tmp_path / "a.npy", ids=str(id_list))


def test_overflow_names_the_policy_that_would_hold_it(tmp_path, id_list, bring):
    array = np.ones((70, 4), np.float32)
    array[7, 1] = 1e5
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(StorageValueError, match=r"(?s)row 7 of .*pooled.*float32"):
        bring(tmp_path / "a.npy", ids=str(id_list))
    assert bring(tmp_path / "a.npy", ids=str(id_list), policy="float32", name="wide").rows == 70


class Harm:
    def __reduce__(self):
        return os.mkdir, ("harmed",)


def test_nothing_is_unpickled(tmp_path, id_list, bring, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"x": Harm()}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Harm()))
    np.save(tmp_path / "a.npy", np.array([Harm()] * 70, object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", x=np.ones((70, 4), np.float32), ids=np.array([Harm()] * 70, object))
    for name, more in (("a.pt", {}), ("b.pt", {}), ("a.npy", {}), ("a.npz", {"ids": "ids", "key": "x"})):
        with pytest.raises(SourceError):
            bring(tmp_path / name, **({"ids": str(id_list)} | more))
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_something_else(kind, tmp_path, id_list, bring):
    if kind == "h5":
        pytest.importorskip("h5py", reason="needs the extra interchange")
    (tmp_path / f"a.{kind}").write_bytes(b"not an array at all, but some words" * 20)
    with pytest.raises(SourceError, match=rf"a\.{kind}"):
        bring(tmp_path / f"a.{kind}", ids=str(id_list))
    with pytest.raises(SourceError, match="no such file"):
        bring(tmp_path / f"none.{kind}", ids=str(id_list))


@pytest.mark.parametrize("kind", ["npz", "pt", "safetensors"])
def test_a_file_that_is_cut_short(kind, tmp_path, numbers, id_list, bring):
    path = write(tmp_path / f"a.{kind}", kind, numbers)
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(SourceError, match=rf"a\.{kind}"):
        bring(path, ids=str(id_list))


def test_several_arrays_must_be_told_apart(tmp_path, numbers, id_list, bring):
    np.savez(tmp_path / "a.npz", one=numbers, two=numbers)
    with pytest.raises(SourceError, match=r"(?s)several arrays.*'one', 'two'.*--key one"):
        bring(tmp_path / "a.npz", ids=str(id_list))
    with pytest.raises(SourceError, match="no array 'three'"):
        bring(tmp_path / "a.npz", ids=str(id_list), key="three")
    assert bring(tmp_path / "a.npz", ids=str(id_list), key="two").rows == 70


def test_an_h5_file_is_never_followed_out_of(tmp_path, numbers, id_list, bring):
    h5py = pytest.importorskip("h5py", reason="needs the extra interchange")
    numbers.astype("<f4").tofile(tmp_path / "raw.bin")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = numbers
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["linked"] = h5py.ExternalLink("other.h5", "x")
        file.create_dataset("x", shape=(70, 12), dtype="<f4", external=[("raw.bin", 0, h5py.h5f.UNLIMITED)])
    assert open_arrays(tmp_path / "a.h5", "h5").keys == ("x",)
    with pytest.raises(SourceError, match="in another file"):
        bring(tmp_path / "a.h5", ids=str(id_list))


def test_without_h5py_the_install_line_is_given(tmp_path, id_list, bring, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "a.h5").write_bytes(b"")
    with pytest.raises(MissingExtraError, match=r"pip install 'embedstore\[interchange\]'"):
        bring(tmp_path / "a.h5", ids=str(id_list))


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_the_other_byte_order_is_read_as_what_it_is(kind, tmp_path, numbers, id_list, bring):
    path = write(tmp_path / f"a.{kind}", kind, numbers.astype(">f2"))
    bring(path, ids=str(id_list), policy="float32")
    found = open_store(tmp_path / "new.store")["theirs"].read("pooled", 0, 70)
    np.testing.assert_array_equal(found, numbers.astype(np.float16).astype(np.float32))

"""Encoders of several features by the command line, from checkpoints that the libraries saved."""

import json

import pytest


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A ConvNeXtV2 and a GPT-2 of random weights, as their library saves them."""
    import torch
    import transformers
    from tokenizers import Tokenizer, pre_tokenizers, trainers
    from tokenizers import models as kinds

    root = tmp_path_factory.mktemp("several")
    torch.manual_seed(0)
    vision = transformers.ConvNextV2Config(hidden_sizes=[8, 12, 16, 24], depths=[1, 1, 1, 1])
    transformers.ConvNextV2Model(vision).save_pretrained(root / "convnext")
    transformers.ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=0.875).save_pretrained(
        root / "convnext"
    )
    tokenizer = Tokenizer(kinds.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [], trainers.BpeTrainer(special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False)
    )
    words = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|end|>", eos_token="<|end|>"
    )
    words.save_pretrained(root / "gpt")
    config = transformers.GPT2Config(
        vocab_size=len(words), n_embd=24, n_layer=3, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(root / "gpt")
    return root


def test_one_command_makes_several_features_and_the_next_one_nothing(run, models, picture_folder, tmp_path):
    store = tmp_path / "store"
    encode = [
        *("encode", picture_folder, store, "--limit", 40),
        *("--image-encoder", f"vision=hf:{models}/convnext?layers=2,3,4"),
        *("--text-encoder", f"short,long=hf:{models}/gpt?max_length=8,32&layer=-2&pooling=last"),
    ]
    code, out, err = run(*encode, "--dry-run", "--json")
    assert code == 0, err
    dry = json.loads(out)["features"]
    assert [f["made_with"] for f in dry] == [None, "vision-L2", "vision-L2", None, None]
    code, out, err = run(*encode, "--dry-run")
    assert "with vision-L2" in out
    code, out, err = run(*encode)
    assert code == 0, err
    assert "short: 80 of" in err.replace("\n", " ") or "short: 80 texts were cut at 8 tokens" in err
    code, out, err = run(*encode, "--json")
    made = json.loads(out)["features"]
    assert [f["feature"] for f in made] == ["vision-L2", "vision-L3", "vision-L4", "short", "long"]
    assert [f["fresh_rows"] for f in made] == [0] * 5
    assert [f["nbytes"] for f in made][1:3] == [f["nbytes"] for f in dry][1:3]

    code, out, err = run("info", store)
    assert "layer 2, pooled mean\n" in out
    assert "layer 3, pooled mean\n" in out
    assert "pooled mean+norm\n" in out
    assert "up to 8 tokens, layer 2, pooled last" in out.replace("\n", " ")
    cards = {f["name"]: f["header"]["card"] for f in json.loads(run("info", store, "--json")[1])["features"]}
    assert [cards[n]["grid"] for n in ("vision-L2", "vision-L3", "vision-L4")] == [[8, 8], [4, 4], [2, 2]]
    assert [cards[n]["tokenizer"]["max_length"] for n in ("short", "long")] == [8, 32]
    assert run("verify", store)[0] == 0

    code, out, err = run("encode", picture_folder, tmp_path / "more", "--append", store, "--dry-run")
    assert code == 1
    assert "are in the store already" in err


def test_what_cannot_be_meant_is_said_at_once(run, models, picture_folder, tmp_path):
    vision, gpt = f"hf:{models}/convnext", f"hf:{models}/gpt"
    for option, spec, words in (
        ("image", f"{vision}?layers=1,5", "the model has no such layer"),
        ("image", f"a,b={vision}", "one name, or one for each of its features"),
        ("image", f"{vision}?image_size=65", "multiple of the patch size"),
        ("image", f"{vision}?pooling=cls", "no such pooled embedding"),
        ("text", f"{gpt}?max_length=8,65", "bad maximal length of a text"),
        ("text", f"{gpt}?layer=1,2", "layer must be a whole number"),
    ):
        code, _, err = run("encode", picture_folder, tmp_path / "s", f"--{option}-encoder", spec)
        assert code in (1, 2)
        assert words in err.replace("\n", " ")
    assert not (tmp_path / "s").exists()

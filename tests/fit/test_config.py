"""Configuration files and options: what wins, what is refused, and that each committed file loads."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedstore.errors import UsageError
from embedstore.fit.config import fit_config

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))


def write(folder, text):
    file = folder / "fit.toml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("file", CONFIGS, ids=lambda f: f.stem)
def test_every_committed_file_is_a_whole_configuration(file):
    config = fit_config(file)
    assert config.image
    assert config.text
    assert config.batch_size >= 2


def test_the_paper_is_among_them():
    paper = fit_config(next(f for f in CONFIGS if f.stem == "freeze-align-paper"))
    assert (paper.epochs, paper.batch_size, paper.width, paper.lr) == (30, 16384, 1024, 1e-3)
    sides = (paper.image_local, paper.image_cls, paper.text_token, paper.text_global)
    assert sides == ("token", "token", "token", "mlp")
    assert (paper.dropout, paper.weight_decay, paper.min_lr, paper.temperature) == (0.1, 0.02, 1e-5, 0.07)


def test_options_win_over_the_file_and_none_is_no_option(tmp_path):
    file = write(tmp_path, 'image = "a"\ntext = "b"\nepochs = 3\nwidth = 64\n')
    config = fit_config(file, epochs=7, width=None, image="c")
    assert (config.image, config.text, config.epochs, config.width) == ("c", "b", 7, 64)


def test_an_unknown_field_is_refused_with_the_nearest_name(tmp_path):
    file = write(tmp_path, 'image = "a"\ntext = "b"\nbatchsize = 3\n')
    with pytest.raises(
        UsageError, match=r"fit\.toml: unknown field 'batchsize'[\s\S]*did you mean 'batch_size'"
    ):
        fit_config(file)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image": None}, "name a feature of the store as 'image'"),
        ({"epochs": 0}, "epochs: .*greater than or equal to 1"),
        ({"image_local": "tokens"}, "'tokens'"),
        ({"batch_size": 1}, "batch_size"),
        ({"val_split": "val", "val_fraction": 0.1}, "exclude each other"),
        ({"positives": "any"}, "positives 'any', captions 1"),
        ({"val_split": "train"}, "cannot be chosen on the split it is fitted on"),
        ({"val_split": "val", "split": None}, "every image is fitted on"),
        ({"val_fraction": 1.0}, "val_fraction: input should be less than 1"),
        ({"lr": 1e-6}, "min_lr is above lr.*lower min_lr too"),
        ({"seed": 2**64}, "a seed has 64 bits"),
    ],
)
def test_values_that_no_fit_accepts_are_refused(options, words):
    with pytest.raises(UsageError, match=rf"(?s){words}"):
        fit_config(**{"image": "a", "text": "b", "split": "train", **options})


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(UsageError, match="not valid TOML"):
        fit_config(write(tmp_path, "image = "))
    with pytest.raises(UsageError, match="cannot read the configuration"):
        fit_config(tmp_path / "none.toml")

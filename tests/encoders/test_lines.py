"""The table of docs/encoders.md: up to date, and of encoders that the tests do build."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
import transformers

from embedstore.encoders.hf_image_families import FAMILIES as IMAGE_FAMILIES
from embedstore.encoders.hf_text_families import FAMILIES as TEXT_FAMILIES
from embedstore.encoders.lines import lines, with_table
from embedstore.encoders.table import KINDS

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "encoders.md"


def test_the_page_shows_what_the_registry_holds():
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_table(page), "run: python -m embedstore.encoders.lines docs/encoders.md"


def test_every_kind_has_its_lines():
    shown = [re.match(r"`([a-z_]+):", line.spec).group(1) for line in lines()]
    assert sorted(set(shown)) == KINDS.names()


def cases(module):
    spec = importlib.util.spec_from_file_location(module, HERE / f"{module}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def named(kind):
    return {name for line in lines() if kind in line.spec for name in re.findall(r"`([^`]+)`", line.tested)}


def test_the_models_of_timm_and_open_clip_are_those_of_the_tests():
    assert named("`timm:`") == {architecture for architecture, *_ in cases("test_timm").CASES.values()}
    module = cases("test_open_clip")
    assert named("`open_clip:` image") == set(module.IMAGES)
    assert named("`open_clip:` text") == set(module.TEXTS)


@pytest.mark.parametrize(
    ("families", "module"), [(IMAGE_FAMILIES, "test_hf_image"), (TEXT_FAMILIES, "test_hf_text")]
)
def test_every_class_of_transformers_in_the_table_is_built_by_a_test(families, module, checkpoint):
    built = set()
    for name in cases(module).CASES:
        config = json.loads((checkpoint(name) / "config.json").read_text())
        keys = [*(config["architectures"] or ()), config["model_type"]]
        built.add(families[next(key for key in keys if key in families)].model)
    lacking = {family.model for family in families.values()} - built
    configs = {getattr(transformers, model).config_class for model in built}
    assert {model for model in lacking if getattr(transformers, model).config_class not in configs} == set()

"""What the built wheel installs, imports and shows."""

import json
import zipfile

import pytest

LOADED = "import sys, json; print(json.dumps(sorted(m for m in sys.modules if '.' not in m)))"
HEAVY = {
    "torch",
    "torchvision",
    "transformers",
    "sentence_transformers",
    "open_clip",
    "timm",
    "faiss",
    "matplotlib",
}
PUBLIC = {
    "AlignedModel",
    "DeviceCache",
    "PairStream",
    "TokenDataset",
    "TokenStream",
    "EmbedstoreError",
    "Feature",
    "JoinedStore",
    "Store",
    "Subset",
    "create_subset",
    "remove_subset",
    "__version__",
    "apply_head",
    "bench_retrieval",
    "bench_zeroshot",
    "compact_store",
    "encode_source",
    "export_rows",
    "fit_head",
    "import_feature",
    "load",
    "load_head",
    "open_store",
    "search_store",
    "verify_store",
    "export_onnx",
    "load_clip",
    "push_head",
}


def test_installs_exactly_two_top_level_names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        top = {name.split("/")[0] for name in archive.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"embedstore", "embedstore_cli"}


def test_carries_types_and_the_demo_encoder(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"embedstore/py.typed", "embedstore_cli/py.typed"} <= names
    assert "embedstore/encoders/data/vit-scenes/model.safetensors" in names


@pytest.mark.parametrize(
    "code", ["import embedstore", "import embedstore_cli.app", "import embedstore; dir(embedstore)"]
)
def test_imports_are_light(run_installed, code):
    assert not HEAVY & set(json.loads(run_installed(f"{code}\n{LOADED}")))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["encode", "--help"],
        ["fit", "--help"],
        ["bench", "retrieval", "--help"],
        ["info", "--help"],
    ],
)
def test_help_is_light(run_installed, arguments):
    code = f"""
import sys
from embedstore_cli.app import main
sys.argv = ["embedstore", *{arguments!r}]
try:
    main()
except SystemExit as end:
    assert end.code == 0, end.code
print()
{LOADED}"""
    assert not HEAVY & set(json.loads(run_installed(code).splitlines()[-1]))


def test_public_names_are_exactly_those_listed(run_installed, installed):
    code = "import embedstore as e, json; print(json.dumps([e.__file__, e.__all__, dir(e)]))"
    file, names, listed = json.loads(run_installed(code))
    assert file.startswith(str(installed))
    assert set(names) == PUBLIC == set(listed)


def test_public_names_resolve(run_installed):
    run_installed("import embedstore\nfor name in embedstore.__all__: getattr(embedstore, name)")


def test_an_unknown_public_name_is_an_attribute_error(run_installed):
    run_installed("import embedstore\nassert not hasattr(embedstore, 'no_such_name')")

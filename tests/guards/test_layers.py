"""Who may import whom, read from the source."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = [
    {"errors"},
    {"policies"},
    {"documents", "registry", "shapes"},
    {"store", "metrics"},
    {"sources", "encoders", "heads", "losses", "index", "stream"},
    {"model", "interchange"},
    {"encode", "curate", "fit", "bench"},
    {"recipes"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
# Shared by everybody (`shapes`, `documents`) or shipped for other people's tests (`testing`, `__init__`).
FREE = {"testing", "__init__"}
FILES = sorted((ROOT / "embedstore").rglob("*.py"))


def room(path: Path) -> str:
    part = path.relative_to(ROOT / "embedstore").parts[0]
    return part.removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Rooms of `embedstore` that a file imports, also inside functions and for type checking only."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            names = [node.module or ""]
            if node.module == "embedstore":
                names = [f"embedstore.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {n.split(".")[1] for n in names if n.startswith("embedstore.")}
        assert "embedstore_cli" not in {n.split(".")[0] for n in names}, (
            f"{path.name} imports the command line"
        )
    return found


def test_every_room_has_a_level():
    assert {room(p) for p in FILES} <= LEVEL.keys() | FREE


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_go_down_only(path):
    here = room(path)
    if here in FREE:
        return
    for other in imports(path) - {here}:
        assert other in LEVEL, f"{path.name} imports embedstore.{other}, which has no level"
        assert LEVEL[other] < LEVEL[here], (
            f"embedstore.{here} must not import embedstore.{other} ({path.name})"
        )


def test_the_guard_sees_a_wrong_import(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text("def f():\n    from embedstore.bench import retrieval\n", encoding="utf-8")
    assert imports(wrong) == {"bench"}

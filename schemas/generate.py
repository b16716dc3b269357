"""Write `schemas/v1/` from the documents and tables; a test fails when the committed files differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from embedstore.documents import PUBLISHED
from embedstore.store.tables import arrow_schemas

ROOT = Path(__file__).parent / "v1"


def schema_files() -> dict[str, str]:
    """Relative path -> text of every published schema."""
    files: dict[str, dict[str, Any]] = {f"{d.__name__}.json": d.model_json_schema() for d in PUBLISHED}
    files |= {f"arrow/{name}.json": schema for name, schema in arrow_schemas().items()}
    return {path: json.dumps(schema, indent=2, ensure_ascii=False) + "\n" for path, schema in files.items()}


def main() -> None:
    """Write every schema and remove those that no document stands for."""
    wanted = schema_files()
    for old in ROOT.rglob("*.json"):
        if old.relative_to(ROOT).as_posix() not in wanted:
            old.unlink()
    for path, text in wanted.items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

"""Embeddings from and to other people's formats; docs/interchange.md is the page of it.

`import_feature` makes a feature of a store from a file or folder, rows matched by id. `export_rows` writes
rows and features of a store in a layout that other tools read. Nothing that is read is unpickled or executed.
"""

from __future__ import annotations

from embedstore.interchange.exporting import ExportOptions, ExportSummary, export_rows
from embedstore.interchange.importing import ImportOptions, ImportSummary, import_feature

__all__ = [
    "ExportOptions",
    "ExportSummary",
    "ImportOptions",
    "ImportSummary",
    "export_rows",
    "import_feature",
]

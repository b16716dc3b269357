"""The servers of the tests of remote stores: fsspec's memory, moto's S3, a web server with ranges."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_FILE = Path(__file__).parents[2] / "store" / "remote" / "conftest.py"
_SPEC = importlib.util.spec_from_file_location("remote_places", _FILE)
_places = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_places)

cache, s3_server, s3, memory, web = (
    _places.cache,
    _places.s3_server,
    _places.s3,
    _places.memory,
    _places.web,
)

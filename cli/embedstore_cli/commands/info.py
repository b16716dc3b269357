"""`embedstore info`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedstore_cli import options as opt
from embedstore_cli import render

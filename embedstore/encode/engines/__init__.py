"""Who makes the units of an encode: this process, several on this machine, or actors on Ray."""

from __future__ import annotations

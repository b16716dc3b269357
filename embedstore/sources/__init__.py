"""Where samples come from: one class a kind, opened by `open_source`."""

from embedstore.sources.grammar import SOURCES, open_source

__all__ = ["SOURCES", "open_source"]

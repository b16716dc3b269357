"""Pieces of one-file HTML pages: what stands on a page, plots as SVG, templates. No data is gathered here."""

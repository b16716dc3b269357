"""Nearest rows of a gallery. `exact` is the reference that every faster index is measured against."""

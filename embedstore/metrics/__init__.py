"""Metrics: pure functions on NumPy arrays. No torch, no file, no state."""

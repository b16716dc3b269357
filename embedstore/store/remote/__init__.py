"""Stores behind URLs: read through a bounded local cache, written as objects."""

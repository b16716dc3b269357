"""Rows out of sharded arrays, as fast as memory and disk allow."""

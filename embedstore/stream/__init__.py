"""Stored tokens as torch batches: paired for fitting, in row order for evaluation."""

"""Compositions of the verbs: the demo, and the training of its image encoder."""

"""Rows that encoders are compared by: what is left where fewer are drawn."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embedstore.store.pair_rows import Captioned, places_of_sample


@given(st.lists(st.integers(1, 4), min_size=1, max_size=20), st.data())
def test_pictures_keep_their_captions(counts, data):
    offsets = np.concatenate([[0], np.cumsum(counts)])
    texts = 100 + np.arange(offsets[-1])
    every = Captioned(images=10 * np.arange(len(counts)), texts=texts, offsets=offsets, skipped={"x": 1})
    size = data.draw(st.integers(1, len(counts)))
    places = places_of_sample(len(counts), size, seed=data.draw(st.integers(0, 9)))
    some = every.at(places)
    assert len(some) == size
    assert some.skipped == {"x": 1}
    for at, place in enumerate(places):
        assert some.images[at] == 10 * place
        own = some.texts[some.offsets[at] : some.offsets[at + 1]]
        assert own.tolist() == texts[offsets[place] : offsets[place + 1]].tolist()

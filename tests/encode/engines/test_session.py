"""Passes are numbered by the process that comes first; another groups its jobs in the same way."""

import numpy as np

from embedstore.encode import EncodeOptions
from embedstore.encode.decoding import open_decoders
from embedstore.encode.engines.work import WorkOnFeature
from embedstore.encode.session import EncodeRequest, prepare


def test_views_that_were_added_are_grouped_as_by_the_first_process(picture_folder, tiny_vision, tmp_path):
    def session(views):
        request = EncodeRequest(
            source=str(picture_folder),
            store=str(tmp_path / "store"),
            image_encoders=(f"vision=hf:{tiny_vision}",),
            options=EncodeOptions(views=views, limit=8, batch_size=4, shard_rows=4),
        )
        return prepare(request, tmp_path / "store", on_progress=lambda _: None)

    def begin(some):
        for together in some.passes:
            for job in together:
                WorkOnFeature.begin(tmp_path / "store", job.header)

    def made(some, number):
        with open_decoders(some.request.options) as decoders:
            (unit,) = some.encoded(some.passes[number], [0], decoders=decoders, on_rows=lambda _: None)
        return [arrays["tokens"] for arrays in unit.arrays]

    begin(session(1))
    first = session(3)  # finds one of the views begun
    begin(first)
    second = session(3)  # finds all of them begun
    assert first.grouped(first.names) is first
    assert second.names != first.names
    assert len(first.names) == 2
    same = second.grouped(first.names)
    assert same.names == first.names
    for number in range(2):
        found, wanted = made(same, number), made(first, number)
        assert len(found) == len(first.names[number])
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one, other)

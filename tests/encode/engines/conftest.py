"""A small encode, made once by one process, and how to look at what others make of it."""

import json
import os
import signal

import pytest

from embedstore.encode import EncodeOptions, EngineOptions, encode_source


class SmallEncode:
    """100 pictures and 200 texts in units of 8 rows; the same bytes whoever makes them."""

    def __init__(self, source, vision, words):
        self.source = str(source)
        self.encoders = {
            "image_encoders": [f"vision=hf:{vision}"],
            "text_encoders": [f"words=hf:{words}"],
        }

    def run(self, store, *, engine=None, **more):
        options = EncodeOptions(batch_size=4, shard_rows=8, **more.pop("options", {}))
        engine = engine or EngineOptions(threads=1)
        return encode_source(self.source, store, options=options, engine=engine, **self.encoders, **more)

    def command(self, store, *more):
        line = ["encode", self.source, str(store), "--batch-size", "4", "--shard-rows", "8", "--threads", "1"]
        for kind, (spec,) in self.encoders.items():
            line += [f"--{kind.removesuffix('s').replace('_', '-')}", spec]
        return [*line, *more]

    @staticmethod
    def tree(store):
        return {p.relative_to(store).as_posix(): p.read_bytes() for p in store.rglob("*") if p.is_file()}

    @staticmethod
    def workers(store):
        """Process ids of the workers of the latest run, from its log."""
        log = store.with_name(store.name + ".encode.log").read_text(encoding="utf-8")
        lines = [json.loads(line) for line in log.splitlines()]
        return [line["process"] for line in lines if line["event"] == "worker"]

    def killer(self, store):
        """A listener to progress that kills one worker when a first unit is stored."""
        killed = []

        def listen(_at):
            if not killed and any(store.glob("features/vision/units/*.json")):
                killed.append(self.workers(store)[0])
                os.kill(killed[0], signal.SIGKILL)

        return listen, killed


@pytest.fixture
def small(picture_folder, tiny_vision, tiny_words):
    return SmallEncode(picture_folder, tiny_vision, tiny_words)

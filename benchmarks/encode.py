"""Encoding against the bare model, plain Pillow and padded batches; its memory; and what a dry run foretells.

Both sides of a ratio take turns in this process with the same threads. CPU times are told beside the times of
the clock: where other programs share the machine, these are what can be compared.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
import encode_data
from common import Row, main, paired_ratio, seconds

from embedstore.encode import EncodeOptions, dry_run_source, encode_source
from embedstore.encode.decoding import ThreadDecoders
from embedstore.encode.decoding_processes import ProcessDecoders
from embedstore.encode.plan import plan_source
from embedstore.encode.texts import token_batches
from embedstore.encoders import load_image_encoder, load_text_encoder
from embedstore.encoders.device import frozen_forward
from embedstore.errors import EmbedstoreError
from embedstore.sources import open_source

if TYPE_CHECKING:
    from embedstore.encode.decoding import Decoders

THREADS, CORES = torch.get_num_threads(), len(os.sched_getaffinity(0))
RATE = "rate ours/reference"


@dataclass(frozen=True, kw_only=True)
class Took:
    """Seconds of the clock and of this process on all its cores."""

    wall: float
    cpu: float


class Bench:
    """Every claim in one folder; `quick` for fewer pictures and rounds."""

    def __init__(self, folder: Path, *, quick: bool) -> None:
        self.folder, self.quick = folder, quick
        self.files, self.kind = encode_data.pictures(folder / "painted")
        self.rows: list[Row] = []

    def measure(self) -> list[Row]:
        """All rows; the GPU's where there is one."""
        tiny = encode_data.vit(self.folder / "vit-tiny")
        small = encode_data.dinov2(self.folder / "dinov2-small", width=384, layers=12, heads=6)
        rounds = 3 if self.quick else 5
        self.forward("encode-vs-forward", small, "ViT-S/14", 64 if self.quick else 256, rounds)
        self.forward("encode-vs-forward-tiny", tiny, "ViT-Tiny/16", 256 if self.quick else 1024, rounds)
        self.decode(small)
        self.text_padding()
        self.memory()
        self.dry_run(tiny)
        if torch.cuda.is_available():
            self.gpu()
        return self.rows

    def forward(
        self, name: str, spec: str, model: str, count: int, rounds: int, *, device: str = "cpu"
    ) -> None:
        """`encode` with all it does against the model on a batch of tensors that is there already."""
        options = EncodeOptions(device=device)
        encoder: Any = load_image_encoder(spec, device=device)
        size = min(options.batch_for(encoder.card), count)
        source = encode_data.linked(self.folder / name, self.files, count)
        pixels = [encoder.prepare(picture) for picture in map(rgb, sorted(source.iterdir())[:size])]
        batch = torch.from_numpy(np.stack(pixels)).to(device)

        def bare() -> Took:
            began = now()
            with frozen_forward(batch.device, encoder.card.compute_dtype):
                for rows in encode_data.batches(count, size):
                    encoder.model(pixel_values=batch[: len(rows)])
            if batch.is_cuda:
                torch.cuda.synchronize()
            return since(began)

        def ours() -> Took:
            marks: list[Took] = []
            encode_source(
                str(source),
                self.folder / "store",
                image_encoders=[f"v={spec}"],
                # Where the units of so small a set would be smaller than a batch, as no large one's are.
                options=EncodeOptions(device=device, shard_rows=max(64, size)),
                on_progress=lambda _: marks.append(now()),
            )
            took = since(marks[0])  # planned and loaded; the first is told before any row is encoded
            shutil.rmtree(self.folder / "store")
            return took

        bare()
        pairs = [(ours(), bare()) if k % 2 else (bare(), ours())[::-1] for k in range(rounds)]
        self.rows.append(
            Row(
                name=name,
                ratio=statistics.median(b.wall / a.wall for a, b in pairs),
                meaning=RATE,
                reference="the model alone on decoded tensors",
                detail=f"{model}, {device}, {encoder.card.compute_dtype}, batch {size}, {count} {self.kind}, "
                f"{THREADS} threads; ours {count / median_wall(pairs, 0):.1f}/s, bare "
                f"{count / median_wall(pairs, 1):.1f}/s, median of {rounds}; the same of CPU time "
                f"{statistics.median(b.cpu / a.cpu for a, b in pairs):.3f}",
            )
        )

    def decode(self, spec: str) -> None:
        """The decode stage alone on one core against Pillow's own functions, and what more workers bring."""
        encoder: Any = load_image_encoder(spec, device="cpu")
        count = 100 if self.quick else 400
        folder = encode_data.enlarged(self.folder / "photos", self.files[:count], 384)
        planned = plan_source(open_source(str(folder)))
        files, count = sorted(folder.iterdir()), len(planned.order)

        def stage(decoders: Decoders, thumbnails: int = 0) -> None:
            for row in decoders.prepared(planned, encoder, range(count), thumbnails=thumbnails, ahead=64):
                assert row.reason is None  # noqa: S101 - all of them are whole

        def pillow() -> None:
            for file in files:
                cropped(file, resized=256, edge=224)

        rounds = 5 if self.quick else 9
        with ThreadDecoders(1) as one:
            plain = paired_ratio(lambda: stage(one), pillow, rounds)
            kept = paired_ratio(lambda: stage(one, 128), pillow, rounds)
        self.rows.append(
            Row(
                name="decode-vs-pillow",
                ratio=plain.rate,
                meaning=RATE,
                reference="Pillow: open, RGB, resize to 256, crop 224",
                detail=f"{count} JPEG, shorter side 384, one worker; ours also normalises; {plain.text}; "
                f"with thumbnails of 128 pixels {kept.rate:.3f}",
            )
        )
        for kind, workers in (("threads", ThreadDecoders), ("processes", ProcessDecoders)):
            times: dict[int, float] = {}
            for count_of in (1, CORES):
                runs = [steady(workers(count_of), planned, encoder, 3 * count) for _ in range(rounds // 2)]
                times[count_of] = statistics.median(runs)
            self.rows.append(
                Row(
                    name=f"decode-scaling-{kind}",
                    ratio=times[1] / times[CORES],
                    meaning=RATE,
                    reference="one worker",
                    detail=f"{CORES} {kind} once they run; {3 * count} JPEG, shorter side 384; "
                    f"ours {seconds(times[CORES])}, one {seconds(times[1])}",
                )
            )

    def text_padding(self) -> None:
        """Tokens that the batches of Flickr captions compute over their real ones, in units as stored."""
        texts = encode_data.captions()
        try:
            encoder = load_text_encoder("demo:minilm", device="cpu")
        except EmbedstoreError as bad:
            sys.stderr.write(f"text-padding left out: {bad}\n")
            return
        if not texts:
            sys.stderr.write(f"text-padding left out: no {encode_data.FLICKR}\n")
            return
        ids = encoder.prepare(texts)[0]
        lengths = np.array([len(row) for row in ids])
        options = EncodeOptions()
        budget = 128 * options.batch_for(encoder.card)
        of_unit: dict[int, float] = {}
        for unit in (64, len(texts)):
            computed = sum(
                len(batch) * lengths[rows.start : rows.stop][batch].max()
                for rows in encode_data.batches(len(texts), unit)
                for batch in token_batches(lengths[rows.start : rows.stop], budget)
            )
            of_unit[unit] = computed / lengths.sum()
        naive = sum(
            len(rows) * lengths[rows.start : rows.stop].max() for rows in encode_data.batches(len(texts), 64)
        )
        self.rows.append(
            Row(
                name="text-padding",
                ratio=of_unit[64],
                meaning="computed/real",
                reference=f"padded batches of 64 in the order of the file: {naive / lengths.sum():.3f}",
                detail=f"{len(texts)} Flickr captions, MiniLM tokens, units of 64 as a store of so few has; "
                f"in one unit {of_unit[len(texts)]:.3f}; rows in other batches differ by "
                f"{self.noise(encoder, ids[:128]):.1e} of the largest value at most",
            )
        )

    def noise(self, encoder: Any, ids: list[Any]) -> float:
        """How much a row depends on its batch: alone against sorted batches."""
        worst = largest = 0.0
        for batch in token_batches(np.array([len(row) for row in ids]), 2048):
            together = encoder.encode([ids[k] for k in batch])
            for place in range(max(0, len(batch) - 8), len(batch)):
                alone = encoder.encode([ids[batch[place]]]).tokens[0]
                worst = max(worst, float((together.tokens[place, : len(alone)] - alone).abs().max()))
                largest = max(largest, float(alone.abs().max()))
        return worst / largest

    def memory(self) -> None:
        """The peak of a whole process for 1, 4 and 16 times the samples, in units of one size."""
        spec = encode_data.vit(
            self.folder / "vit-2", image_size=64, num_hidden_layers=2, num_attention_heads=3
        )
        base = 128 if self.quick else 512
        peaks = []
        for times in (1, 4, 16):
            source = encode_data.linked(self.folder / f"times{times}", self.files, base * times)
            store = self.folder / f"store{times}"
            script = Path(__file__).with_name("encode_memory.py")
            done = subprocess.run(
                [sys.executable, script, source, store, spec], capture_output=True, text=True, check=True
            )
            peaks.append(float(done.stdout))
            shutil.rmtree(store)
        self.rows.append(
            Row(
                name="rss-growth",
                ratio=max(peaks) / peaks[0] - 1,
                meaning="growth",
                reference=f"{base} samples",
                detail=f"{base}, {4 * base}, {16 * base} pictures, units of 64: peak of the process "
                + ", ".join(f"{peak:.0f}" for peak in peaks)
                + " MB",
            )
        )

    def dry_run(self, spec: str) -> None:
        """What a dry run says of pictures and captions, and what the run then takes."""
        count = 256 if self.quick else 1000
        texts = encode_data.captions() or ["a dog runs", "two people on a red boat in the sun"]
        folder = encode_data.linked(self.folder / "predicted", self.files, count)
        table = encode_data.with_captions(self.folder / "predicted.jsonl", folder, texts)
        encoders: dict[str, Any] = {"image_encoders": [f"v={spec}"], "text_encoders": ["w=demo:minilm"]}
        options = EncodeOptions(device="cpu")
        times, sizes, said = [], [], ""
        # The first load in a process imports the libraries; it would count against the dry run alone.
        load_image_encoder(spec, device="cpu"), load_text_encoder("demo:minilm", device="cpu")
        for _ in range(1 if self.quick else 3):
            store = self.folder / "store"
            plan = dry_run_source(str(table), store, options=options, tokenize_all=True, **encoders)
            began = now()
            made = encode_source(str(table), store, options=options, **encoders)
            took = since(began)
            nbytes = sum(f.manifest.nbytes for f in made.features)
            times.append(plan.seconds / took.wall - 1)
            sizes.append(plan.missing_bytes / nbytes - 1)
            said += f"{seconds(plan.seconds)} foretold, {seconds(took.wall)} taken; "
            exact = plan.features[1].missing_nbytes == made.features[1].manifest.nbytes
            shutil.rmtree(store)
        for name, errors, detail in (
            ("dry-run-error", times, said + "the whole call, with planning and loading"),
            ("dry-run-error-bytes", sizes, f"with --tokenize-all; texts exact: {exact}"),
        ):
            self.rows.append(
                Row(
                    name=name,
                    ratio=statistics.median(abs(e) for e in errors),
                    meaning="relative error",
                    reference="what the run then takes",
                    detail=f"ViT-Tiny, {count} pictures, MiniLM, {5 * count} captions; {detail}",
                )
            )

    def gpu(self) -> None:
        """DINOv2-Large on a GPU, and the stages one by one."""
        large = encode_data.dinov2(self.folder / "dinov2-large", width=1024, layers=24, heads=16)
        count = 4096 if self.quick else 16_384
        spec = f"{large}?dtype=bfloat16"
        self.forward("encode-vs-forward-gpu", spec, "DINOv2-Large", count, 3, device="cuda")
        encoder = load_image_encoder(spec, device="cuda")
        planned = plan_source(open_source(str(self.folder / "encode-vs-forward-gpu")))
        began = now()
        with ThreadDecoders(EncodeOptions().decoders) as decoders:
            for _ in decoders.prepared(planned, encoder, range(1024), thumbnails=128, ahead=512):
                pass
        decode = 1024 / since(began).wall
        nbytes = count // 8 * 257 * 1024 * 2
        began = now()
        with (self.folder / "written").open("wb", buffering=0) as out:
            out.write(memoryview(bytes(nbytes)))
        store = count // 8 / since(began).wall
        last = self.rows.pop()
        self.rows.append(
            Row(
                name=last.name,
                ratio=last.ratio,
                meaning=last.meaning,
                reference=last.reference,
                detail=f"{last.detail}; stages alone: decode {decode:.0f}/s, a plain file of as many bytes "
                f"{store:.0f}/s",
            )
        )


def steady(workers: Decoders, planned: Any, encoder: Any, count: int) -> float:
    """Seconds of `count` pictures after some that start the workers; `planned` is gone through repeatedly."""
    ahead = 32
    rows = [row % len(planned.order) for row in range(ahead + count)]
    with workers as decoders:
        pictures = decoders.prepared(planned, encoder, rows, thumbnails=0, ahead=ahead)
        for _ in range(ahead):
            next(pictures)
        began = now()
        for _ in pictures:
            pass
        return since(began).wall


def rgb(file: Path) -> Image.Image:
    """A picture as Pillow opens it."""
    with Image.open(file) as picture:
        return picture.convert("RGB")


def cropped(file: Path, *, resized: int, edge: int) -> Image.Image:
    """What a model of `edge` pixels is shown, by plain Pillow."""
    picture = rgb(file)
    scale = resized / min(picture.size)
    size = round(picture.width * scale), round(picture.height * scale)
    left, top = (size[0] - edge) // 2, (size[1] - edge) // 2
    box = left, top, left + edge, top + edge
    return picture.resize(size, Image.Resampling.BICUBIC).crop(box)


def now() -> Took:
    """The clocks as they are."""
    return Took(wall=time.perf_counter(), cpu=time.process_time())


def since(began: Took) -> Took:
    """What passed on both clocks."""
    return Took(wall=time.perf_counter() - began.wall, cpu=time.process_time() - began.cpu)


def median_wall(pairs: list[tuple[Took, Took]], side: int) -> float:
    """Median seconds of one side of the pairs."""
    return statistics.median(pair[side].wall for pair in pairs)


def measure(quick: bool) -> list[Row]:  # noqa: FBT001 - the one argument of every benchmark
    """Everything; `--quick`: fewer pictures and rounds."""
    with tempfile.TemporaryDirectory() as folder:
        return Bench(Path(folder), quick=quick).measure()


if __name__ == "__main__":
    main(measure, description=__doc__.splitlines()[0])

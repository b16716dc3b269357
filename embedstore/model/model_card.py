"""The README.md of a published head: what it is, what it was fitted on, what it is worth, how to load it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from embedstore.documents import NOT_SHARES
from embedstore.encoders.demo import MODELS
from embedstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedstore.documents import BenchReport, EncoderCard, FitConfig, RowsRecord
    from embedstore.model.fitted import FittedHead

README = "README.md"
_PUBLIC = ("transformers", "sentence-transformers")


def licence_of(name: str | None) -> str | None:
    """A licence's identifier as hubs write it; `UsageError` for what is none."""
    if name is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]{0,60}", name):
        raise UsageError(
            "not the identifier of a licence",
            where="licence",
            found=name,
            allowed="apache-2.0, cc-by-4.0, ...",
        )
    return name


def model_card(
    fitted: FittedHead,
    fit: FitConfig | None,
    reports: Sequence[BenchReport],
    *,
    licence: str | None = None,
    name: str | None = None,
) -> str:
    """The card as Markdown with a YAML head; without places of this machine."""
    config = fitted.config
    cards = (config.image_card, config.text_card)
    title = name.partition("/")[2] if name else f"{config.head} head"
    introduction = (
        f"A `{config.head}` head of embedstore: it maps pictures ({_named(cards[0])}) and texts "
        f"({_named(cards[1])}) into one space of {fitted.width} dimensions, in which they are compared by "
        "cosine. Both encoders are frozen and not part of these files."
    )
    parts = [
        _front(fitted, fit, licence),
        f"# {_plain(title)}",
        introduction,
        "## Use\n\n" + _snippet(fitted, name),
        "## Encoders\n\n" + "\n".join(_table([_encoder_row(card) for card in cards], _ENCODER_COLUMNS)),
        "## Fitted\n\n" + "\n".join(f"- {line}" for line in _fitted(fitted, fit)),
    ]
    if reports:
        parts.append("## Figures\n\n" + "\n\n".join(_figures(report) for report in reports))
    parts.append(
        f"Head `{fitted.sha256}`, weights sha256 `{config.weights_sha256}`; `embedstore.load` "
        "checks the weights, and the encoders against the cards in `head.json`."
    )
    return "\n\n".join(parts) + "\n"


def _front(fitted: FittedHead, fit: FitConfig | None, licence: str | None) -> str:
    config = fitted.config
    bases = [card.model for card in (config.image_card, config.text_card) if _is_public(card)]
    fields: dict[str, str | list[str]] = {
        "library_name": "embedstore",
        **({"license": licence} if licence else {}),
        "pipeline_tag": "zero-shot-image-classification",
        **({"language": [fit.language]} if fit else {}),
        **({"base_model": bases} if bases else {}),
        "tags": ["embedstore", "image-text-alignment", "image-text-retrieval", f"embedstore-{config.head}"],
    }
    # What JSON writes is YAML too, whatever a name holds.
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()]
    return "\n".join(["---", *lines, "---"])


def _snippet(fitted: FittedHead, name: str | None) -> str:
    lines = ["```python", "import embedstore", ""]
    given = [
        f'    {side}_encoder="{kind}:FOLDER",  # {_plain(card.model)}'
        for side, card in (("image", fitted.config.image_card), ("text", fitted.config.text_card))
        if not _is_public(card)
        and card.model not in MODELS
        and (kind := {"transformers": "hf", "sentence-transformers": "st"}.get(card.library))
    ]
    place = json.dumps(name or "FOLDER")
    lines += [f"model = embedstore.load({place}{',' if given else ')'}", *given, *([")"] if given else [])]
    lines += [
        'pictures = model.encode_image(["dog.jpg", "cat.jpg"])',
        'texts = model.encode_text(["a dog", "a cat"])',
        "print(pictures @ texts.T)",
        "```",
    ]
    return "\n".join(lines)


_ENCODER_COLUMNS = ("", "model", "class", "reads", "layer", "weights sha256")


def _encoder_row(card: EncoderCard) -> tuple[str, ...]:
    if card.processor is not None:
        height, width = card.processor.size
        reads = f"{height} × {width} px"
    else:
        reads = f"up to {card.tokenizer.max_length} tokens" if card.tokenizer else "unknown"
    layer = "last" if card.layer == -1 else "unknown" if card.layer is None else str(card.layer)
    revision = f" at {card.revision}" if card.revision else ""
    return (
        card.modality,
        f"{card.model}{revision} ({card.library})",
        card.architecture,
        reads,
        layer,
        card.weights_sha256[:12],
    )


def _fitted(fitted: FittedHead, fit: FitConfig | None) -> list[str]:
    config = fitted.config
    split = f"split `{config.trained_on}`" if config.trained_on else "every image"
    stores = config.stores or ((config.store_fingerprint,) if config.store_fingerprint else ())
    shown = ", ".join(f"`{store[:12]}`" for store in stores)
    lines = [f"on cached tokens, {split} of store{'s' if len(stores) > 1 else ''} {shown or 'unknown'}"]
    mixed = " in these shares" if any(record.share for record in config.rows) else ""
    if config.rows:
        lines.append(f"of these only{mixed}: {'; '.join(map(_rows, config.rows))}")
    if fit is not None:
        lines.append(
            f"{fit.epochs} epochs, batches of {fit.batch_size}, loss {fit.loss}, {fit.optimiser}, "
            f"lr {fit.lr:g}, language {fit.language}, role {fit.role}, seed {fit.seed}; see `fit.json`"
        )
    lines.append(f"temperature {config.temperature:.4g}")
    if config.chosen:
        on = f"split `{config.chosen_on}`" if config.chosen_on else "held-out images"
        lines.append(f"the best checkpoint on {on} was kept: figures on these are not independent")
    if config.image_shrink:
        lines.append(f"patch tokens lessened by `{config.image_shrink}`")
    return lines


def _rows(record: RowsRecord) -> str:
    share = "" if record.share is None else f", share {record.share:g}"
    return f"`{_plain(record.name)}` ({record.rows} {record.table}{share})"


def _figures(report: BenchReport) -> str:
    counted = ", ".join(
        f"{count} {what}"
        for count, what in ((report.images, "images"), (report.texts, "texts"), (report.classes, "classes"))
        if count
    )
    where = f"split {report.split}" if report.split else "all rows"
    where += f", of these only {_rows(report.rows)}" if report.rows else ""
    rows = []
    for direction, figures in report.metrics.items():
        for metric, figure in figures.items():
            chance = report.chance.get(direction, {}).get(metric)
            show = f"{{:{'g' if metric in NOT_SHARES else '.1%'}}}".format
            rows.append(
                (
                    f"{direction.replace('_', ' ')} {metric}",
                    show(figure.value),
                    f"{show(figure.low)} to {show(figure.high)}",
                    "" if chance is None else show(chance),
                )
            )
    lines = [f"`{report.task}`: {counted}, {where}, store `{report.store_fingerprint[:12]}`.", ""]
    lines += _table(rows, ("", "value", "95 % interval", "chance"))
    return "\n".join([*lines, *(f"\n{_plain(note)}" for note in report.notes)])


def _table(rows: Sequence[tuple[str, ...]], columns: tuple[str, ...]) -> list[str]:
    lines = [columns, tuple("---" for _ in columns), *rows]
    return [
        f"| {' | '.join(_plain(cell) if k != 1 else cell for cell in row)} |" for k, row in enumerate(lines)
    ]


def _named(card: EncoderCard) -> str:
    link = f"[{card.model}](https://huggingface.co/{card.model})"
    return link if _is_public(card) else f"`{_plain(card.model)}`"


def _is_public(card: EncoderCard) -> bool:
    return card.library in _PUBLIC and re.fullmatch(r"[\w.-]+/[\w.-]+", card.model, re.ASCII) is not None


def _plain(text: str) -> str:
    """One line that is not taken for markup."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(text.split()))

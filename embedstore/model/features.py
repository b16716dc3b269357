"""Which features of a store belong to a head: those that it reads, and those that it has made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedstore.documents import HeadCard
from embedstore.errors import HeadError, UsageError
from embedstore.store.geometry import effective_policy

if TYPE_CHECKING:
    from embedstore.documents import EncoderCard, PolicyName, Table
    from embedstore.model.fitted import FittedHead
    from embedstore.store import Feature, Store


def feature_of_card(
    store: Store, name: str, card: EncoderCard, *, shrink: PolicyName | None = None
) -> Feature:
    """The store's feature with this card: the one of the head's own name first, else any other name.

    Of others, those first whose patch tokens were lessened as those that the head was fitted on (`shrink`,
    as in its record). An augmented view is measured only where the pictures themselves are not encoded.
    """

    def order(found: str) -> tuple[bool, bool, bool, str]:
        header = store.header(found)
        fewer = effective_policy(header.policy, header.card).fewer_tokens
        unlike = (fewer.name if fewer.shrinks else None) != shrink
        return header.card.view is not None, found != name, unlike, found

    names = sorted(store.features(), key=order)
    for found in names:
        if not card.plain.differences(store.header(found).card.plain):
            return store[found]
    differing = ""
    if name in names:
        fields = card.plain.differences(store.header(name).card.plain)
        differing = "; ".join(f"{name}.{field}: head {a!r}, store {b!r}" for field, (a, b) in fields.items())
    raise HeadError(
        f"the store has no feature of the {card.modality} encoder that the head was fitted for",
        where=store.path.name,
        found=differing or f"features {', '.join(names) or 'none'}",
        allowed=f"a feature made by {card.model} ({card.architecture})",
        todo=f"add it: embedstore encode SOURCE STORE --{card.modality}-encoder {name}=SPEC",
    )


def head_card(head: FittedHead, table: Table) -> HeadCard:
    """What the card of a head's joint embeddings of a table says about the head."""
    card = head.config.image_card if table == "images" else head.config.text_card
    return HeadCard(sha256=head.sha256, encoder_sha256=card.plain.identity_sha256)


def applied_feature(store: Store, head: FittedHead, table: Table) -> str | None:
    """The first complete feature, by name, that holds this head's joint embeddings of a table; or none."""
    wanted = head_card(head, table)
    for name in store.features():
        header = store.header(name)
        own = header.table == table and header.card.head == wanted and header.card.view is None
        if own and store.complete(name):
            return name
    return None


def feature_of_head(
    store: Store, head: FittedHead, table: Table, name: str | None, *, option: str = "--feature"
) -> Feature:
    """The feature of a table from which a head's joint embeddings come: what it has made, or what it reads.

    By `name`; without one those that it has made where they are there, else that of its encoder's card;
    `feature.card.head` tells which. `UsageError` for a feature of the other table (where:
    `option`), `HeadError` for one of another head or encoder.
    """
    config = head.config
    own, card, shrink = (
        (config.image_feature, config.image_card, config.image_shrink)
        if table == "images"
        else (config.text_feature, config.text_card, None)
    )
    name = name or applied_feature(store, head, table)
    found = feature_of_card(store, own, card, shrink=shrink) if name is None else store[name]
    if found.table != table:
        raise UsageError(
            f"{found.name!r} is a feature of {found.table}", where=option, allowed=f"one of {table}"
        )
    if found.card.head is None:
        (head.check_image if table == "images" else head.check_text)(found)
    elif found.card.head != head_card(head, table):
        raise HeadError(
            "these are the joint embeddings of another head",
            where=found.name,
            found=found.card.head.sha256[:16],
            allowed=head.sha256[:16],
        )
    return found

"""Both modalities before and after the projection, flattened by t-SNE (freeze-align, Fig. A.4)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from embedstore.model import FittedHead, stored_vectors
from embedstore.recipes.page.content import Block, Chapter
from embedstore.recipes.page.extra import needs_extra
from embedstore.recipes.page.plots import scatter_plot

if TYPE_CHECKING:
    from embedstore.bench.setting import Setting
    from embedstore.recipes.page.content import Plot
    from embedstore.shapes import Float32Array, FloatArray, IntArray

GROUPS, MOST, LEAST = 6, 300, 12
_PERPLEXITY = 30


def projection_chapter(setting: Setting, images: IntArray, texts: IntArray | None, *, seed: int) -> Chapter:
    """Maps of up to 300 image rows `(n,)` and, where given, of a text row of each `(n,)`.

    Before: pooled embeddings of the encoders; after: joint embeddings. In colour the six most frequent
    classes, or, without labels, six groups of the pictures by k-means before the projection. Without a head
    there is no before. Each title tells how often the nearest neighbour by cosine is of the same group.
    """
    chosen, groups, names, how = _groups(setting, images, seed)
    rows = images[chosen]
    words = None if texts is None else texts[chosen]
    plots, after = [], ""
    if isinstance(setting.embedder, FittedHead):
        after = " after"
        plots.append(_own_map("Pictures before", stored_vectors(setting.image, rows), groups, names, seed))
        if words is not None:
            plots.append(
                _own_map("Captions before", stored_vectors(setting.text, words), groups, names, seed)
            )
    joint = setting.embedder.embed_images(setting.image, rows)
    plots.append(_own_map(f"Pictures{after}", joint, groups, names, seed))
    if words is not None:
        said = setting.embedder.embed_texts(setting.text, words)
        plots.append(_own_map(f"Captions{after}", said, groups, names, seed))
        plots.append(_joint_map(f"Both{after}", joint, said, groups, names, seed=seed))
    what = f"{len(rows)} pictures{' with a caption each' if words is not None else ''}"
    return Chapter(
        title="Before and after the projection" if after else "Pictures and captions as a map",
        lead=f"{what} by t-SNE, a map of its own for each plot; {how}. A map keeps neighbours, not distances"
        " or directions.",
        blocks=(Block(kind="plots", value=plots),),
    )


def _groups(setting: Setting, images: IntArray, seed: int) -> tuple[IntArray, IntArray, list[str], str]:
    """Places in `images`, the group of each, the groups' names, and what they are."""
    random = np.random.default_rng(seed)
    labels = setting.store.images(["label"])["label"].take(images).to_pylist()
    most = [name for name, _ in Counter(label for label in labels if label is not None).most_common(GROUPS)]
    if len(most) > 1:
        place = {name: k for k, name in enumerate(most)}
        group = np.array([place.get(label, -1) for label in labels])
        each = [random.permutation(np.flatnonzero(group == k))[: MOST // GROUPS] for k in range(len(most))]
        chosen = np.sort(np.concatenate(each))
        return chosen, group[chosen], most, "the most frequent classes"
    chosen = np.sort(random.permutation(len(images))[:MOST])
    with needs_extra():
        from sklearn.cluster import KMeans
    clusters = KMeans(min(GROUPS, len(chosen)), n_init=3, random_state=seed)
    group = clusters.fit_predict(stored_vectors(setting.image, images[chosen])).astype(np.int64)
    names = [f"group {k + 1}" for k in range(clusters.n_clusters)]
    return chosen, group, names, "in colour, groups of the pictures before the projection, by k-means"


def _own_map(title: str, vectors: Float32Array, groups: IntArray, names: list[str], seed: int) -> Plot:
    near = vectors @ vectors.T
    np.fill_diagonal(near, -np.inf)
    title = f"{title}: {_agreement(near, groups, groups)} of nearest neighbours in the same group"
    return scatter_plot(flattened(vectors, seed=seed), groups, names, title=title, alt=title)


def _joint_map(
    title: str, images: Float32Array, texts: Float32Array, groups: IntArray, names: list[str], *, seed: int
) -> Plot:
    """Pictures filled, captions as outlines, in one map."""
    nearest = _agreement(texts @ images.T, groups, groups)
    title += f" (captions hollow): {nearest} of captions have a picture of the same group nearest"
    return scatter_plot(
        flattened(np.concatenate([images, texts]), seed=seed),
        np.tile(groups, 2),
        names,
        title=title,
        alt=title,
        hollow=len(texts),
    )


def _agreement(scores: FloatArray, own: IntArray, other: IntArray) -> str:
    return f"{100 * np.mean(other[scores.argmax(axis=1)] == own):.0f} %"


def flattened(vectors: FloatArray, *, seed: int) -> FloatArray:
    """A map `(n, 2)` of rows `(n, e)` by t-SNE (van der Maaten and Hinton 2008) of cosine distances."""
    with needs_extra():
        from sklearn.manifold import TSNE
    perplexity = min(_PERPLEXITY, (len(vectors) - 1) / 3)
    flat: FloatArray = TSNE(
        metric="cosine", init="pca", perplexity=perplexity, random_state=seed
    ).fit_transform(vectors.astype(np.float64))
    return flat

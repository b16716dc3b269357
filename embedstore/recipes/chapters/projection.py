"""Both modalities before and after the projection, flattened by t-SNE (freeze-align, Fig. A.4)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedstore.model import FittedHead, stored_vectors
from embedstore.recipes.page.content import Block, Chapter
from embedstore.recipes.page.plots import scatter_plot

if TYPE_CHECKING:
    from embedstore.bench.setting import Setting
    from embedstore.recipes.page.content import Plot
    from embedstore.shapes import Float32Array, FloatArray, IntArray

GROUPS, MOST, LEAST = 6, 300, 12
_PERPLEXITY = 30


def projection_chapter(
    setting: Setting, images: IntArray, texts: IntArray | None, *, seed: int
) -> Chapter | None:
    """Maps of up to 300 image rows `(n,)` and, where given, of a text row of each `(n,)`; none of too few.

    Before: pooled embeddings of the encoders; after: joint embeddings. In colour the six most frequent
    classes, or, without labels, six groups of the pictures by k-means before the projection. Without a head
    there is no before. Each map tells how often the nearest neighbour by cosine is of the same group.
    """
    if len(images) < LEAST or "pooled" not in setting.image.arrays:
        return None
    chosen, groups, names, how = _groups(setting, images, seed)
    if len(chosen) < LEAST:
        return None
    maps = _Maps(groups=groups, names=names, seed=seed)
    rows, words = images[chosen], None if texts is None else texts[chosen]
    projected = isinstance(setting.embedder, FittedHead)
    after = " after" if projected else ""
    plots = []
    if projected:
        plots.append(maps.own("Pictures before", stored_vectors(setting.image, rows)))
    if projected and words is not None and "pooled" in setting.text.arrays:
        plots.append(maps.own("Captions before", stored_vectors(setting.text, words)))
    joint = setting.embedder.embed_images(setting.image, rows)
    plots.append(maps.own(f"Pictures{after}", joint))
    if words is not None:
        said = setting.embedder.embed_texts(setting.text, words)
        plots += [maps.own(f"Captions{after}", said), maps.joint(f"Both{after}", joint, said)]
    what = f"{len(rows)} pictures{' with a caption each' if words is not None else ''}"
    return Chapter(
        title="Before and after the projection" if projected else "Pictures and captions as a map",
        lead=f"{what} by t-SNE, a map of its own for each plot; in colour {how}. A map keeps neighbours, not"
        " distances or directions. Shares are of nearest neighbours by cosine, before they are flattened; by"
        f" lot {maps.by_lot:.0%} would be of the same colour.",
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
    from sklearn.cluster import KMeans

    vectors = stored_vectors(setting.image, images[chosen])
    distinct = len(np.unique(vectors, axis=0))
    clusters = KMeans(min(GROUPS, distinct), n_init=3, random_state=seed).fit(vectors)
    names = [f"group {k + 1}" for k in range(clusters.n_clusters)]
    return chosen, clusters.labels_.astype(np.int64), names, "groups of the pictures before it, by k-means"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Maps:
    """Draws vectors whose rows `(n,)` have groups."""

    groups: IntArray
    names: list[str]
    seed: int

    @property
    def by_lot(self) -> float:
        """How often another row drawn by lot is of the same group."""
        sizes = np.bincount(self.groups)
        return float((sizes * (sizes - 1)).sum() / (len(self.groups) * (len(self.groups) - 1)))

    def own(self, title: str, vectors: Float32Array) -> Plot:
        """Rows of one modality."""
        near = vectors @ vectors.T
        np.fill_diagonal(near, -np.inf)
        note = f"{self._agreement(near)} have the nearest of them in their own colour"
        flat = flattened(vectors, seed=self.seed)
        return scatter_plot(flat, self.groups, self.names, title=title, note=note)

    def joint(self, title: str, images: Float32Array, texts: Float32Array) -> Plot:
        """Pictures filled, captions as outlines, in one map."""
        note = (
            f"{self._agreement(texts @ images.T)} of captions (hollow) have the nearest picture in their own"
        )
        return scatter_plot(
            flattened(np.concatenate([images, texts]), seed=self.seed),
            np.tile(self.groups, 2),
            self.names,
            title=title,
            note=f"{note} colour",
            hollow=len(texts),
        )

    def _agreement(self, scores: FloatArray) -> str:
        return f"{np.mean(self.groups[scores.argmax(axis=1)] == self.groups):.0%}"


def flattened(vectors: FloatArray, *, seed: int) -> FloatArray:
    """A map `(n, 2)` of rows `(n, e)` by t-SNE (van der Maaten and Hinton 2008) of cosine distances."""
    from sklearn.manifold import TSNE

    perplexity = min(_PERPLEXITY, (len(vectors) - 1) / 3)
    # Principal components of rows that are all the same have no direction.
    init = "pca" if vectors.std(axis=0).any() else "random"
    flat: FloatArray = TSNE(
        metric="cosine", init=init, perplexity=perplexity, random_state=seed
    ).fit_transform(vectors.astype(np.float64))
    return flat

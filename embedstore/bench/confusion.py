"""The whole confusion matrix as a table for other programs."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from embedstore.bench.zeroshot import Classified


def confusion_csv(found: Classified) -> str:
    """A row for each class: its label, then how many of its images were called each class; a header first."""
    labels = [name.label for name in found.classes]
    order = np.argsort(found.labels, kind="stable")
    ends = np.cumsum(np.bincount(found.labels, minlength=len(labels)))
    sink = io.StringIO()
    table = csv.writer(sink, lineterminator="\n")
    table.writerow(["label", *labels])
    for c, own in enumerate(np.split(found.predicted[order], ends[:-1])):
        table.writerow([labels[c], *np.bincount(own, minlength=len(labels)).tolist()])
    return sink.getvalue()

"""Which class a predicted class or a cluster stands for, and the IoU that follows.

Letters: n images, C classes, K predicted classes or clusters.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from odis.evaluation.label_maps import IGNORE


def pixel_table(
    labels: np.ndarray | Tensor, predicted: np.ndarray | Tensor, classes: int, k: int
) -> np.ndarray:
    """How many pixels of each class have each prediction, ignored ones left out: int32 (C, K)."""
    labels, predicted = torch.as_tensor(labels).long(), torch.as_tensor(predicted).long()
    labels = labels.to(predicted.device)
    known = labels != IGNORE
    pairs = labels[known] * k + predicted[known]
    return torch.bincount(pairs, minlength=classes * k).reshape(classes, k).cpu().numpy().astype(np.int32)


def by_hungarian(table: np.ndarray) -> np.ndarray:
    """The class of each of K predicted classes, one to one, by the largest sum of IoU: int64 (K,).

    Args:
        table: (C, K) pixels over the whole set; K of at most C. A class that is left has no predictions.
    """
    both = table.astype(np.float64)
    union = both.sum(0, keepdims=True) + both.sum(1, keepdims=True) - both
    iou = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    of_class, of_cluster = linear_sum_assignment(iou, maximize=True)
    mapping = np.zeros(table.shape[1], np.int64)
    mapping[of_cluster] = of_class
    return mapping


def by_precision(table: np.ndarray) -> np.ndarray:
    """The class that most pixels of each cluster have, many to one; of equal ones the lowest: int64 (K,)."""
    found: np.ndarray = table.argmax(axis=0)
    return found


def iou_counts(tables: np.ndarray, mapping: np.ndarray) -> np.ndarray:
    """Of each class the pixels in both, predicted and labelled, see `scores.overlaps`: int64 (n, 3, C).

    Args:
        tables: int (n, C, K), `pixel_table` of each image.
        mapping: int (K,), the class of each prediction.
    """
    n, classes, k = tables.shape
    stands_for = np.zeros((k, classes), np.int64)
    stands_for[np.arange(k), mapping] = 1
    counts = np.empty((n, 3, classes), np.int64)
    for i, table in enumerate(tables):
        whole = table.astype(np.int64)
        counts[i, 0] = (whole * stands_for.T).sum(1)
        counts[i, 1] = whole.sum(0) @ stands_for
        counts[i, 2] = whole.sum(1)
    return counts

"""Collating against the explicit loops."""

import numpy as np
import pytest
import torch

from odis.data.batch import collate
from odis.types import Crop, Sample, View


def test_collating_equals_the_explicit_loops():
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    views, local_views, images, slots = 3, 2, 4, 3

    def view(size: int, patches: int) -> View:
        pixels = torch.rand(3, size, size, generator=generator)
        return View(
            pixels,
            Crop(0, 0, 1, 1),
            torch.from_numpy(rng.random((slots, patches)) < 0.5),
            torch.from_numpy(rng.random(slots) < 0.6),
        )

    samples = [
        Sample(
            [view(8, 4) for _ in range(views)],
            [view(4, 1) for _ in range(local_views)],
            torch.from_numpy((rng.random((views, 4)) < 0.5) & (rng.random((views, 1)) < 0.7)),
            index=10 + b,
            path=str(b),
        )
        for b in range(images)
    ]
    batch = collate(samples)
    assert batch.paths == ["0", "1", "2", "3"]
    assert batch.indices == [10, 11, 12, 13]
    teacher, student_global, student_local, pairs, hidden, weight = [], [], [], 0, [], []
    for b, sample in enumerate(samples):
        for g, one in enumerate(sample.global_views):
            assert batch.global_views[g * images + b].equal(one.pixels)
            assert batch.global_masks[g * images + b].equal(one.object_masks)
            assert batch.global_visible[g, b].equal(one.visible)
            assert batch.prediction_masks[g * images + b].equal(sample.prediction_masks[g])
            for p in range(4):
                if sample.prediction_masks[g, p]:
                    hidden.append((g * images + b) * 4 + p)
                    weight.append((hidden[-1], 1 / int(sample.prediction_masks[g].sum())))
        for v, one in enumerate(sample.local_views):
            assert batch.local_views[v * images + b].equal(one.pixels)
            assert batch.local_masks[v * images + b].equal(one.object_masks)
            assert batch.local_visible[v, b].equal(one.visible)
        everywhere = [(True, g, one) for g, one in enumerate(sample.global_views)]
        everywhere += [(False, v, one) for v, one in enumerate(sample.local_views)]
        for q in range(slots):
            teacher += [
                (g * images + b) * slots + q for g, one in enumerate(sample.global_views) if one.visible[q]
            ]
            for is_global, v, one in everywhere:
                teachers = [
                    u
                    for u, other in enumerate(sample.global_views)
                    if other.visible[q] and not (is_global and u == v)
                ]
                if one.visible[q] and teachers:
                    (student_global if is_global else student_local).append((v * images + b) * slots + q)
                    pairs += len(teachers)
    assert batch.teacher_rows.tolist() == sorted(teacher)
    assert batch.student_global_rows.tolist() == sorted(student_global)
    assert batch.student_local_rows.tolist() == sorted(student_local)
    assert 0 < len(student_global) < len(teacher)
    assert batch.pairs.item() == pairs
    every = sum(
        1
        for _ in samples
        for _ in range(slots)
        for u in range(views)
        for v in range(views + local_views)
        if v != u
    )
    zero = collate(samples, "zero")
    assert zero.pairs.item() == every > pairs
    assert zero.teacher_rows.equal(batch.teacher_rows)
    assert zero.student_local_rows.equal(batch.student_local_rows)
    assert batch.hidden.tolist() == sorted(hidden)
    assert batch.hidden_weight.tolist() == pytest.approx([w for _, w in sorted(weight)])
    assert batch.hidden_weight.dtype == batch.pairs.dtype == torch.float32
    assert batch.hidden.dtype == batch.teacher_rows.dtype == torch.int64

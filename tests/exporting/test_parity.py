"""What is measured of an export: the pictures asked about, the differences found, and what is refused."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from odis.data.geometry.patches import object_shapes, objects_on_grid
from odis.errors import OdisError
from odis.exporting.network import Exported, ObjectFeatures
from odis.exporting.parity import (
    class_token,
    compare,
    difference,
    in_words,
    odis_outputs,
    probe,
    with_boxes,
)

PLAIN, REGISTERS = "vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2"
KINDS = [
    {"name": PLAIN, "object_tokens": "read-only"},
    {"name": PLAIN, "object_tokens": "single"},
    {"name": REGISTERS, "object_tokens": "read-only"},
    {"name": PLAIN, "object_tokens": "beside"},
    {"name": REGISTERS, "object_tokens": "beside"},
    {"name": PLAIN, "object_readout": "mean-pool"},
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_odis_answers_as_embed_does(kind: dict, exported_of: Callable[..., Exported]):
    """Pictures whose grid has as many patches as a square of the size are not resized by `embed`."""
    exported = exported_of(**kind)
    patch = exported.encoder.patch_size
    given = probe(2, 8, patch, 2, 3)
    found = odis_outputs(exported, given)
    pictures = [np.ascontiguousarray(p.transpose(1, 2, 0)) for p in given.pixels]
    masks = given.masks.repeat_interleave(patch, 2).repeat_interleave(patch, 3).numpy()
    asked = exported.encoder.embed(pictures, masks=[m[1:] for m in masks])  # an object of no patch is refused
    for i, features in enumerate(asked):
        torch.testing.assert_close(found["objects"][i, 1:], features.objects, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found["image"][i], features.image, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found["patches"][i], features.patches, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("objects", [0, 1, 7])
def test_the_graph_answers_as_odis_does(kind: dict, objects: int, exported_of: Callable[..., Exported]):
    exported = exported_of(**kind)
    features = ObjectFeatures(exported)
    for rows, columns, images in ((4, 4, 1), (3, 6, 3)):
        given = probe(rows, columns, exported.encoder.patch_size, images, objects)
        with torch.no_grad():
            found = features(given.normalized(exported), given.masks)
        expected = odis_outputs(exported, given)
        for value, name in zip(found, ("objects", "image", "patches"), strict=True):
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)


def test_probes_are_hard_and_their_objects_of_all_kinds():
    given = probe(3, 5, 16, 3, 4)
    assert given.pixels.shape == (3, 3, 48, 80)
    assert set(np.unique(given.pixels[0])) == {0, 255}
    counts = given.masks.flatten(2).sum(-1)
    assert (counts[:, 0] == 0).all()
    assert (counts[:, 1] == 15).all()
    assert ((counts[:, 2:] > 0) & (counts[:, 2:] < 15)).all()


def test_boxes_of_a_probe_have_odis_own_masks(exported_of: Callable[..., Exported]):
    exported = exported_of(name=PLAIN, object_tokens="read-only", margin=1)
    given = with_boxes(probe(4, 6, 16, 2, 5), exported)
    assert given.boxes is not None
    for i in range(2):
        shapes = object_shapes(given.boxes[i].numpy(), [None] * 5, 96, 64)
        expected = objects_on_grid(shapes, np.array([[0, 0, 96, 64]]), np.zeros(1, bool), (4, 6), 0.5, 1)[0]
        assert given.masks[i].numpy().tolist() == expected.tolist()


def test_the_class_token_is_that_of_a_pass_without_objects(exported_of: Callable[..., Exported]):
    exported = exported_of(name=PLAIN, object_tokens="read-only")
    given = probe(4, 4, 16, 2, 0)
    with torch.no_grad():
        expected = exported.network(given.normalized(exported)).image
    torch.testing.assert_close(class_token(exported, given), expected, rtol=1e-5, atol=1e-6)


def test_differences_are_the_largest_and_cosines_the_smallest():
    given = probe(2, 2, 16, 1, 1)
    expected = {"objects": torch.tensor([[[3.0, 4.0]]]), "image": torch.tensor([[0.0, 0.0]])}
    found = difference(given, {"objects": torch.tensor([[[4.0, 3.0]]]), "image": torch.zeros(1, 2)}, expected)
    assert found.largest == {"objects": 1.0, "image": 0.0}
    assert found.cosine == pytest.approx(24 / 25)
    assert found.scale == 4
    assert found.share == 0.25
    assert "at most 1 (cosine 0.960000) at 32 x 32 pixels; 1 object" in in_words("x", [found])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda t: {"image": t + 0.1}, "x at 64 x 64 pixels, 0 objects differs from odis by 0.1 of"),
        (lambda t: {"image": -t}, "differs from odis"),
        (lambda t: {"image": t[:, :5]}, r"image are \(2, 5\), odis makes \(2, 32\)"),
        (lambda t: {"image": t * float("nan")}, "image hold values that are not finite"),
    ],
)
def test_another_answer_is_refused(answer: Callable, message: str, exported_of: Callable[..., Exported]):
    exported = exported_of(name=PLAIN, object_tokens="read-only")
    image = odis_outputs(exported, given := probe(4, 4, 16, 2, 0))["image"]
    assert compare("x", exported, lambda _: {"image": image.clone()}, [given])[0].share == 0
    with pytest.raises(OdisError, match=message):
        compare("x", exported, lambda _: answer(image), [given])
    if message == "differs from odis":
        with pytest.raises(OdisError, match=r"has a cosine of -1\.0000 to odis, less than 0\.9"):
            compare("x", exported, lambda _: answer(image), [given], tolerance=None, cosine=0.9)


def test_what_odis_did_not_train_is_refused(exported_of: Callable[..., Exported]):
    exported = exported_of(name=PLAIN, object_tokens="read-only")
    exported.encoder.card.copy()
    for size in (40, 16, 0):
        with pytest.raises(OdisError, match=f"size {size} must be a multiple of the patch size 16"):
            Exported.of(exported.encoder, size)
    from dataclasses import replace

    with pytest.raises(OdisError, match="is no model that odis wrote"):
        Exported.of(replace(exported.encoder, card={}))

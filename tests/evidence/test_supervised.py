"""Training with labels: what is shown, that it learns, and that an interrupted run goes on bit for bit."""

import copy
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    import worlds

    from odis.config.options import load_recipe

    world = worlds.worlds()["scenes"].of_size(24)
    index = world.index("train", tmp_path_factory.mktemp("labels"))
    small = {"model.embed_dim": 32, "model.depth": 1, "model.num_heads": 2, "train.batch_size": 16}
    small |= {"train.steps": 12, "train.log_every": 4, "optim.base_lr": 0.05, "optim.warmup_epochs": 1}
    return load_recipe(
        str(world.base), data=index.path, **{name.replace(".", "__"): value for name, value in small.items()}
    )


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_network_learns_its_labels_and_is_opened_as_any_run(config, tmp_path):
    import supervised

    from odis.inference import load
    from odis.train.run_folder import read_config

    supervised.train_with_labels(config, tmp_path / "run")
    losses = [
        json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    encoder = load(tmp_path / "run", device="cpu")
    assert encoder.image_size == config.views.global_size
    assert encoder.provenance == "annotated, labels"
    assert read_config(tmp_path / "run")["resolved"]["total_steps"] == 12


def test_an_interrupted_run_goes_on_bit_for_bit(config, tmp_path, monkeypatch):
    import supervised

    from odis.backbones.saved import load_model

    supervised.train_with_labels(config, tmp_path / "once")
    whole = supervised.batches

    def some(crops, config, start, steps):
        yield from whole(crops, config, start, 5)
        raise KeyboardInterrupt

    monkeypatch.setattr(supervised, "batches", some)
    with pytest.raises(KeyboardInterrupt):
        supervised.train_with_labels(config, tmp_path / "twice")
    assert not (tmp_path / "twice" / "model.safetensors").exists()
    monkeypatch.setattr(supervised, "batches", whole)
    supervised.train_with_labels(config, tmp_path / "twice")
    one, two = (load_model(tmp_path / run / "model.safetensors")[0].state_dict() for run in ("once", "twice"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    steps = [
        json.loads(line)["step"] for line in (tmp_path / "twice" / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == [4, 8, 12]


def test_views_show_an_object_of_their_class(config):
    """Every object is drawn in the end, with its label; the same (epoch, row) gives the same views."""
    import supervised

    from odis.objects.index import ObjectIndex

    index = ObjectIndex.open(config.data)
    crops = supervised.Crops(index, config)
    drawn = {crops.views(epoch, 0).labels[0].item() for epoch in range(60)}
    assert drawn == {item.label for item in index[0].objects}
    shown, again = crops.views(3, 5), crops.views(3, 5)
    assert shown.views.shape == (2, 3, 48, 48)
    assert shown.masks is None
    assert shown.labels.shape == (2, 1)
    assert (shown.labels == again.labels).all()
    assert (shown.views == again.views).all()
    assert not (shown.views[0] == shown.views[1]).all()


@pytest.fixture(scope="module")
def masked(config):
    settings = copy.deepcopy(config)
    settings.model.object_tokens, settings.objects.per_image = "read-only", 5
    return settings


def test_masked_views_are_those_of_the_method_and_know_each_objects_class(masked):
    """The oracle is the method's own data set; a label is that of the one object whose box is in the mask."""
    import supervised

    from odis.data.dataset import ViewDataset
    from odis.objects.index import ObjectIndex

    index = ObjectIndex.open(masked.data)
    shows, method = supervised.MaskedViews(index, masked, 12), ViewDataset(index, masked, 12)
    for position in range(len(shows)):
        shown, sample = shows.views(2, position), method[2, shows.rows[position]]
        for v, view in enumerate(sample.global_views):
            assert torch.equal(shown.views[v], view.pixels)
            assert torch.equal(shown.masks[v], view.object_masks)
            assert ((shown.labels[v] == supervised.NO_LABEL) == ~view.visible).all()
            for label, mask in zip(shown.labels[v][view.visible], view.object_masks[view.visible]):
                boxes = [item.box for item in index[shows.rows[position]].objects if item.label == label]
                assert any(touches(box, view.crop, mask.view(4, 4)) for box in boxes)
    assert any((shows.views(2, k).labels >= 0).sum() > 2 for k in range(len(shows)))


def touches(box, crop, mask):
    """Whether every patch of the mask shows some of the box."""
    rows, columns = mask.nonzero(as_tuple=True)
    columns = 3 - columns if crop.flip else columns
    width, height = (crop.x1 - crop.x0) / 4, (crop.y1 - crop.y0) / 4
    left, top = crop.x0 + columns * width, crop.y0 + rows * height
    x0, y0, x1, y1 = box
    return ((left < x1) & (left + width > x0) & (top < y1) & (top + height > y0)).all()


def test_a_network_learns_from_masks(masked, tmp_path):
    import supervised

    from odis.inference import load

    supervised.train_with_labels(masked, tmp_path / "run", "masks")
    losses = [line["loss"] for line in lines(tmp_path / "run")]
    assert losses[-1] < losses[0]
    assert load(tmp_path / "run", device="cpu").model.object_tokens == "read-only"


def test_what_has_no_label_is_not_learned_from(masked):
    """The loss of a batch is the same when tokens without an object read other patches."""
    import supervised

    from odis.objects.index import ObjectIndex

    index = ObjectIndex.open(masked.data)
    shown = next(supervised.batches(supervised.MaskedViews(index, masked, 12), masked, 0, 1))
    assert (shown.labels == supervised.NO_LABEL).any()
    network = supervised.Classifier(masked, len(index.classes))
    other = torch.where((shown.labels >= 0)[..., None], shown.masks, torch.zeros_like(shown.masks[:1, :1]))
    assert not torch.equal(other, shown.masks)
    torch.testing.assert_close(
        supervised.loss_of(network(shown.views, shown.masks), shown.labels),
        supervised.loss_of(network(shown.views, other), shown.labels),
    )


@given(
    st.tuples(st.integers(2, 60), st.integers(2, 60)),
    st.lists(st.floats(0, 1), min_size=4, max_size=4),
)
def test_a_widened_box_holds_the_box_and_stays_in_the_image(size, corners):
    import supervised

    width, height = size
    x0, x1 = sorted((corners[0] * width, corners[1] * width))
    y0, y1 = sorted((corners[2] * height, corners[3] * height))
    box = np.array([x0, y0, x1, y1])
    a, b, c, d = supervised.widened(box, width, height)
    assert 0 <= a <= x0
    assert 0 <= b <= y0
    assert x1 <= c <= width
    assert y1 <= d <= height
    assert c - a >= 2
    assert d - b >= 2

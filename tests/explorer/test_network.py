"""What a network answers, against what the encoder says when it is asked in Python."""

import base64
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms.v2.functional import pil_to_tensor

from odis.config.query import QueryConfig
from odis.errors import OdisError
from odis.explorer.explorer import Explorer
from odis.explorer.network import ExploredNetwork, load_networks, packed_attention
from odis.explorer.settings import QUESTION_MODES, ExploreSettings
from odis.inference.stream import embed_index
from odis.objects.index import ObjectIndex
from odis.report.features import attention_maps, patch_colours


@pytest.mark.parametrize("mode", QUESTION_MODES)
def test_neighbours_are_those_of_the_encoder(client: Any, explorer: Explorer, mode: str) -> None:
    client.ask({"object": 1}, modes=[mode], networks=[0, 1])
    client.embedded(mode)
    reply = client.ask({"object": 1}, modes=[mode], networks=[1, 0], neighbours=5).json
    assert [one["network"] for one in reply["answers"]] == [1, 0]
    for answer in reply["answers"]:
        found = embed_index(explorer.networks[answer["network"]].encoder, explorer.index, mode)
        unit = torch.nn.functional.normalize(found.features.double(), dim=1)
        place = {(r, n): i for i, (r, n) in enumerate(zip(found.rows.tolist(), found.numbers.tolist()))}
        cosine = unit @ unit[place[1, 1]]
        cosine[found.rows == 1] = -math.inf  # objects of the same image are no neighbours
        shown = answer["modes"][mode]["neighbours"]
        assert len(shown) == 5
        np.testing.assert_allclose(
            [one["cosine"] for one in shown], cosine.sort(descending=True).values[:5], atol=2e-4
        )
        for one in shown:
            assert one["cosine"] == pytest.approx(float(cosine[place[one["row"], one["number"]]]), abs=2e-4)
            assert one["label"] == explorer.index[one["row"]].objects[one["number"]].label
            assert one["class"] == client.CLASSES[one["label"]]
        assert answer["modes"][mode]["features"]["objects"] == 20


def test_attention_is_that_of_the_report_in_every_layer_and_head(client: Any, explorer: Explorer) -> None:
    answer = client.ask({"object": 0}).json["answers"][0]["modes"]["masked-attention"]
    picture, network = explorer.pictures.of_index(1), explorer.networks[0]
    (exact,) = attention_maps(network.encoder, picture.shown, picture.objects.objects[:1], QueryConfig())
    sent = answer["attention"]
    shape = (sent["layers"], sent["heads"], answer["rows"], answer["columns"])
    steps = np.frombuffer(base64.b64decode(sent["weights"]), np.uint8).reshape(shape)
    weights = steps / 255 * np.array(sent["largest"])[..., None, None]
    assert exact.layers == list(range(3))
    half_a_step = exact.weights.max(axis=(2, 3), keepdims=True) / 255 / 2 + 1e-6
    assert (np.abs(weights - exact.weights) <= half_a_step).all()
    mask = np.array([c == "1" for c in answer["mask"]]).reshape(shape[2:])
    assert np.array_equal(mask, exact.mask)
    assert not weights[..., ~mask].any(), "[OBJ] sees its own patches only"


def test_attention_of_all_zeros_stays_zero() -> None:
    sent = packed_attention(torch.zeros(1, 2, 3))
    assert not any(base64.b64decode(sent["weights"]))


def test_patches_are_those_of_the_whole_image(client: Any, explorer: Explorer) -> None:
    answer = client.ask({"whole": True}).json["answers"][0]["patches"]
    picture = explorer.pictures.of_index(1)
    exact = explorer.networks[0].encoder.embed([picture.image], mode="whole-image")[0]
    (colours,), share = patch_colours([exact])
    sent = np.frombuffer(base64.b64decode(answer["colours"]), np.uint8).reshape(colours.shape)
    assert np.array_equal(sent, colours)
    assert answer["share"] == round(share, 4)


@pytest.mark.parametrize(
    ("mode", "frame"),
    [("masked-attention", [0, 0, 48, 40]), ("crop", [10, 5, 31, 21]), ("blackout", [0, 0, 48, 40]),
     ("mean-pool", [0, 0, 48, 40])],
)  # fmt: skip
def test_the_page_is_told_which_part_the_network_sees(client: Any, mode: str, frame: list[int]) -> None:
    answer = client.ask({"box": [10.2, 5.9, 30.1, 20.5]}, modes=[mode]).json["answers"][0]["modes"][mode]
    assert answer["frame"] == frame
    assert len(answer["mask"]) == answer["rows"] * answer["columns"]
    assert ("0" in answer["mask"]) == (mode in ("masked-attention", "mean-pool"))


def test_a_window_is_asked_where_a_context_is_set(models: tuple[str, str], explorer: Explorer) -> None:
    settings = ExploreSettings(query=QueryConfig(context=2.0))
    (network,) = load_networks(models[:1], explorer.index, settings)
    picture = explorer.pictures.of_index(1)
    answer = network.answer(picture, picture.objects.objects[0], "masked-attention", 3)
    x0, y0, x1, y1 = answer["frame"]
    assert (x1 - x0, y1 - y0) == (26, 26)  # twice the longer side of the box, 13
    assert network.about()["context"] == 2.0
    assert network.queries["crop"].context is None
    (query,) = network.encoder.query_builder(network.queries["masked-attention"])(
        pil_to_tensor(picture.image), picture.objects.objects[:1]
    )
    assert answer["mask"] == "".join("01"[int(v)] for v in query.masks[0])


def test_a_network_before_its_training_is_asked_at_the_size_of_the_run(
    models: tuple[str, str], explorer: Explorer, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(Path(models[1]) / "model.safetensors", run)
    (run / "config.yaml").write_text("config:\n  views:\n    global_scale: [0.1, 0.4]\n")
    for size, sides in ((None, [64, 64]), (40, [40, 40])):
        settings = ExploreSettings(query=QueryConfig(size=size))
        networks = load_networks([models[0], str(run)], explorer.index, settings)
        # Crops hold a quarter of the image on average: whole images are twice as large as a crop.
        assert [network.whole for network in networks] == sides
        assert [network.queries["blackout"].size for network in networks] == sides
        assert {network.queries["crop"].size for network in networks} == {32 if size is None else 40}
    (alone,) = load_networks(models[:1], explorer.index, ExploreSettings())
    assert alone.whole == 32


def test_a_network_by_mean_pooling_has_no_attention_to_show(explorer: Explorer) -> None:
    network = explorer.networks[0]
    pooled = ExploredNetwork(
        network.source,
        "pooled",
        network.encoder,
        ExploreSettings(),
        ObjectIndex.open(explorer.index.path),
        32,
    )
    pooled.encoder = type(network.encoder)(
        network.encoder.model, 32, (0.5,) * 3, (0.25,) * 3, object_readout="mean-pool"
    )
    picture = explorer.pictures.of_index(1)
    assert pooled.answer(picture, picture.objects.objects[0], "masked-attention", 3)["attention"] is None
    assert "mean of its patches" in pooled.about()["no_attention"]


def test_a_network_that_diverged_is_one_line(models: tuple[str, str], explorer: Explorer) -> None:
    (network,) = load_networks(models[:1], explorer.index, ExploreSettings())
    next(network.encoder.model.parameters()).fill_(float("nan"))
    picture = explorer.pictures.of_index(1)
    with pytest.raises(OdisError, match="before: its features are not finite"):
        network.answer(picture, picture.objects.objects[0], "crop", 3)

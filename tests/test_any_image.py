"""Images of other channels and depths go the whole way: index, statistics, training, embedding, k-NN, report,
pictures, explorer, export. A 13-band GeoTIFF folder, grey of 16 bits, and a DICOM folder.
"""

import json
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import torch
from PIL import Image

import odis
from odis.cli import run
from odis.config.pixels import PixelFormat
from odis.data.pixels import shrink
from odis.errors import OdisError
from odis.explorer.network import ExploredNetwork
from odis.explorer.pictures import PictureStore
from odis.explorer.settings import ExploreSettings
from odis.inference import Encoder
from odis.objects.index import ObjectIndex
from odis.objects.pixel_statistics import PixelStatistics, measure_pixels
from odis.objects.pixels import load_pixels

TINY = {
    "train__steps": 2, "train__batch_size": 4, "train__device": "cpu", "train__threads": 1,
    "loader__workers": 0, "views__global_size": 32, "views__local_size": 16, "model__embed_dim": 32,
    "model__num_heads": 2, "model__depth": 1, "head__prototypes": 24,
}  # fmt: skip
WIDTH, HEIGHT = 40, 36
KINDS = {"geotiff": ".tif", "grey16": ".png", "dicom": ".dcm"}


def write_geotiff(path: Path, values: np.ndarray) -> None:
    """Thirteen bands, each a little brighter than the one before."""
    bands = np.stack([values * (1 + band / 13) for band in range(13)]).astype(np.uint16)
    height, width = values.shape
    profile = {"driver": "GTiff", "width": width, "height": height, "count": 13, "dtype": "uint16"}
    place = rasterio.transform.from_origin(0, 10, 1, 1)
    with rasterio.open(path, "w", transform=place, nodata=0, **profile) as file:
        file.write(bands)


def write_dicom(path: Path, values: np.ndarray) -> None:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = (
        ExplicitVRLittleEndian,
        SecondaryCaptureImageStorage,
    )
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.Rows, data.Columns, data.SamplesPerPixel = HEIGHT, WIDTH, 1
    data.PhotometricInterpretation, data.PixelRepresentation = "MONOCHROME1", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.RescaleSlope, data.RescaleIntercept = 1, -1024
    data.PixelData = values.astype(np.uint16).tobytes()
    data.save_as(path)


@dataclass
class Trained:
    """A folder of one kind, its index and statistics, and a network that was trained on it."""

    kind: str
    folder: Path
    index: Path
    found: PixelStatistics
    run: Path
    encoder: Encoder


def write_images(folder: Path, kind: str, seed: int, times: int = 1) -> Path:
    """The index of four dark and four bright images, each side `times` as long."""
    rng = np.random.default_rng(seed)
    for name, bright in (("dark", 0), ("bright", 3000)):
        (folder / "images" / name).mkdir(parents=True)
        for k in range(4):
            values = rng.integers(200, 1000, (HEIGHT * times, WIDTH * times))
            values[8 * times : 28 * times, 8 * times : 28 * times] += bright
            path = folder / "images" / name / f"{k}{KINDS[kind]}"
            if kind == "geotiff":
                write_geotiff(path, values)
            elif kind == "dicom":
                write_dicom(path, values)
            else:
                Image.fromarray(values.astype(np.uint16)).save(path)
    odis.index("folder", folder / "images", index := folder / "index.parquet")
    return index


@pytest.fixture(scope="module", params=KINDS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    kind, folder = request.param, tmp_path_factory.mktemp(request.param)
    index = write_images(folder, kind, 0)
    found = measure_pixels(ObjectIndex.open(index))
    views = {f"views__{name}": value for name, value in found.settings().items()}
    made = odis.pretrain("debug", folder / "run", data=str(index), **TINY, **views)
    return Trained(kind, folder, index, found, made, odis.load(made, device="cpu"))


def test_statistics_and_network_are_of_its_channels(trained: Trained) -> None:
    channels = 13 if trained.kind == "geotiff" else 1
    assert trained.found.channels == channels
    assert trained.encoder.pixels == PixelFormat(channels, trained.found.value_ranges)
    assert trained.encoder.mean == trained.found.mean
    assert trained.encoder.model.patch_embed.proj.weight.shape[1] == channels  # type: ignore[union-attr]
    losses = [json.loads(line) for line in (trained.run / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["loss"]) for line in losses if "loss" in line)


def test_a_path_and_its_pixels_are_embedded_alike(trained: Trained) -> None:
    path = str(next((trained.folder / "images").rglob(f"*{KINDS[trained.kind]}")))
    pixels = load_pixels(path, form=trained.encoder.pixels)
    by_path, by_pixels = (trained.encoder.embed(given).image for given in (path, pixels))
    assert torch.equal(by_path, by_pixels)


def test_it_trains_alike_from_memory_from_copies_and_with_views_that_the_device_renders(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if trained.kind != "geotiff":
        pytest.skip("one channel goes the same way")
    index = write_images(tmp_path / "larger", trained.kind, 0, times=3)
    views = {f"views__{name}": value for name, value in trained.found.settings().items()}
    # Every crop has two to four times the sides of its view, so whatever is drawn, images are read at half
    # their size, and a copy on disk is made of each.
    crops = {"views__global_scale": [0.5, 1.0], "views__local_scale": [0.3, 0.5]}
    settings: dict[str, Any] = {**TINY, **views, **crops, "data": str(index)}
    monkeypatch.setattr(shrink, "LARGE", 1)

    def losses(out: str, **more: Any) -> list[float]:
        odis.pretrain("debug", tmp_path / out, **settings | more)
        lines = [json.loads(line) for line in (tmp_path / out / "metrics.jsonl").read_text().splitlines()]
        return [line["loss"] for line in lines if "loss" in line]

    first = losses("plain")
    assert losses("kept", loader__keep=["memory"]) == first
    written = []
    for out in ("copying", "copied"):
        assert losses(out, loader__keep=[f"disk:{tmp_path / 'copies'}"]) == first
        written.append({file: file.stat().st_mtime_ns for file in (tmp_path / "copies").rglob("*.zlib")})
    assert written[0] == written[1]
    assert len(written[0]) == 8
    on_device = losses("device", loader__render="device", loader__keep=["device:1MiB"])
    # Its views differ by the rounding to 8 bits in between.
    assert on_device == pytest.approx(first, rel=0.02)


def test_embedding_and_neighbours(trained: Trained, tmp_path: Path) -> None:
    out = str(tmp_path / "f.parquet")
    run(["embed", str(trained.index), "--model", str(trained.run), "--out", out, "--device", "cpu"])
    assert pq.read_table(tmp_path / "f.parquet").num_rows == 8
    test = write_images(tmp_path / "test", trained.kind, 1)  # others of each class
    found = odis.evaluate("knn", trained.encoder, train=trained.index, test=test, mode="whole-image", k=3)
    assert found["skipped"] == []
    # The middle of a bright image is brighter than anything in a dark one.
    assert found["rows"][0]["scores"]["k=3"]["value"] == 100.0


def test_report_pictures_and_explorer(trained: Trained, tmp_path: Path) -> None:
    run(["report", str(trained.run), "--data", str(trained.index), "--out", str(tmp_path / "r.html")])
    page = (tmp_path / "r.html").read_text()
    assert "can be used" not in page
    assert page.count("data:image") >= 4
    store = PictureStore(ObjectIndex.open(trained.index))
    picture = store.of_index(0)
    assert np.array(picture.image).max() == 255  # stretched, not black
    assert picture.shown.pixels(trained.encoder.pixels).shape == (
        trained.found.channels, HEIGHT, WIDTH,
    )  # fmt: skip


def test_the_explorer_answers_of_what_the_network_reads(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if trained.kind != "geotiff":
        pytest.skip("one channel goes the same way")
    index = ObjectIndex.open(trained.index)
    network = ExploredNetwork(str(trained.run), "n", trained.encoder, ExploreSettings(), index, 32)
    picture = PictureStore(index).of_index(0)
    for mode in ("masked-attention", "blackout"):
        network.banks[mode].fill(lambda: None)
        answer = network.answer(picture, picture.objects.objects[0], mode, 3)
        assert [one["row"] for one in answer["neighbours"]].count(0) == 0
        assert len(answer["neighbours"]) == 3
        assert len(answer["fill"]) == 3  # a colour of the page
    patches = network.patches(picture)
    assert patches is not None
    assert (patches["rows"], patches["columns"]) == (4, 4)


@pytest.mark.parametrize("to", ["timm", "transformers", "onnx"])
def test_export_and_its_program(
    trained: Trained, tmp_path: Path, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written was compared with odis by the export itself; the program beside it runs on an array."""
    if trained.kind != "geotiff" and to != "timm":
        pytest.skip("one channel goes the same way")
    out = odis.export(trained.run, to, tmp_path / "out")
    folder = out / "odis" if to == "transformers" else out
    array = load_pixels(
        next((trained.folder / "images").rglob(f"*{KINDS[trained.kind]}")), form=trained.encoder.pixels
    )
    np.save(tmp_path / "pixels.npy", array)
    monkeypatch.setattr(sys, "argv", ["usage.py", str(tmp_path / "pixels.npy")])
    made = runpy.run_path(str(folder / "usage.py"))
    expected = trained.encoder.embed(array, size=32).image
    # Pillow resizes each channel in bytes, as torch does, by another rounding.
    assert torch.cosine_similarity(torch.as_tensor(made["image"])[0], expected, dim=0) > 0.99


def test_what_works_on_colours_alone_says_so(trained: Trained, tmp_path: Path) -> None:
    if trained.kind != "geotiff":
        pytest.skip("one channel goes the same way")
    images, network, out = str(trained.index), str(trained.run), tmp_path / "out"
    reads = r"run: reads images of 13 channels of stated ranges, but {} takes networks of 8-bit RGB"
    with pytest.raises(OdisError, match=reads.format("discovery")):
        run(["objects", "discover", images, "--with", network, "--out", f"{out}.parquet", "--device", "cpu"])
    for task in ("classification", "detection"):
        with pytest.raises(OdisError, match=reads.format("fine-tuning")):
            run(
                ["finetune", task, "--train", images, "--test", images, "--model", network, "--out", str(out)]
            )

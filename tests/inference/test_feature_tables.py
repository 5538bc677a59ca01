"""`odis embed`: what is written is what the encoder says; read with pyarrow, numpy and DuckDB; resumed,
shared among ranks, refused.
"""

import json
import shutil
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from odis.backbones.build import build_vit
from odis.backbones.saved import save_model
from odis.cli import main
from odis.config.feature_tables import FeatureTableConfig
from odis.config.query import QueryConfig, ReadConfig
from odis.config.training import ModelConfig, PretrainConfig, ViewsConfig
from odis.errors import DataError, OdisError, OdisWarning
from odis.inference import Encoder, embed_index
from odis.inference import feature_tables as export
from odis.inference.feature_tables import export_features
from odis.objects.index import ObjectIndex, write_index
from odis.types import ImageObjects, Object, Skipped

MODEL = ModelConfig(
    "vit_tiny_patch16_224", None, "read-only", patch_size=8, embed_dim=32, depth=1, num_heads=2
)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder.of(
        build_vit(MODEL, 16, drop_path=0.0),
        PretrainConfig(model=MODEL, views=ViewsConfig(global_size=16)),
        source="tiny",
    )


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ObjectIndex:
    folder, rows = tmp_path_factory.mktemp("pictures"), []
    rng = np.random.default_rng(0)
    for i in range(7):
        width = 24 + 8 * (i % 3)
        Image.fromarray(rng.integers(0, 256, (16, width, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        objects = [Object((n, 0, 8 + n, 12), label=(i + n) % 2 if n < 2 else None) for n in range(i % 4)]
        rows.append(ImageObjects(f"{i}.png", width, 16, tuple(objects)))
    write_index(folder / "index.parquet", rows, root=folder, provenance="detected:x", classes=["cat", "dog"])
    return ObjectIndex.open(folder / "index.parquet")


def vectors(path: Path) -> np.ndarray:
    """The README's line."""
    return np.stack(pq.read_table(path, columns=["vector"])["vector"].to_numpy())


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("images", [False, True])
def test_rows_are_the_encoders_answers(
    encoder: Encoder, index: ObjectIndex, tmp_path: Path, dtype: str, images: bool
) -> None:
    parts = export_features(
        encoder,
        index,
        tmp_path / "out",
        FeatureTableConfig(QueryConfig(images=images), dtype=dtype, part_images=3),
    )
    assert [p.name for p in parts] == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    found = embed_index(encoder, index, images=images)
    table = pq.read_table(tmp_path / "out")
    assert table.schema.field("vector").type.list_size == 32
    # Batches of another size round otherwise, by a share of the largest entries; half precision has 11 bits.
    expected, bits = found.features.numpy(), 2**-11 if dtype == "fp16" else 0
    rounding = 2e-5 * np.abs(expected).max()
    np.testing.assert_allclose(vectors(tmp_path / "out"), expected, rtol=bits, atol=rounding)
    assert table["row"].to_pylist() == found.rows.tolist()
    assert table["object"].to_pylist() == [None] * 7 if images else found.numbers.tolist()
    assert table["label"].to_pylist() == [None if label < 0 else label for label in found.labels.tolist()]
    assert table["class"].to_pylist() == [
        None if label < 0 else ("cat", "dog")[label] for label in found.labels.tolist()
    ]
    assert np.array_equal(np.stack(table["box"].to_numpy()), found.boxes.numpy())
    assert table["image"].to_pylist() == [f"{row}.png" for row in found.rows.tolist()]
    assert set(table["provenance"].to_pylist()) == {"detected:x"}
    about = json.loads(table.schema.metadata[b"odis"])
    assert (about["model"], about["mode"], about["dtype"], about["size"]) == (
        "tiny",
        "masked-attention",
        dtype,
        16,
    )
    queried = duckdb.sql(
        f"select list_sum(vector::float[]) as total, class from '{tmp_path}/out/*.parquet' order by row, "
        f"object"
    ).fetchall()
    off = np.abs(np.array([total for total, _ in queried]) - expected.sum(1))
    assert (off <= bits * np.abs(expected).sum(1) + 32 * rounding).all()
    assert [name for _, name in queried] == table["class"].to_pylist()


def test_a_readout_makes_a_table_of_its_own_and_older_tables_hold_objects(
    encoder: Encoder, index: ObjectIndex, tmp_path: Path
) -> None:
    both = FeatureTableConfig(QueryConfig(readout="both"))
    export_features(encoder, index, tmp_path / "both", both)
    expected = embed_index(encoder, index, readout="both").features.numpy()
    np.testing.assert_allclose(vectors(tmp_path / "both"), expected, atol=2e-5 * np.abs(expected).max())
    export_features(encoder, index, tmp_path / "old", FeatureTableConfig())
    about = json.loads((tmp_path / "old" / export.ABOUT).read_text())
    assert about.pop("readout") == "obj"
    assert (about.pop("mask_coverage"), about.pop("mask_margin")) == (None, None)
    (tmp_path / "old" / export.ABOUT).write_text(json.dumps(about))
    export_features(encoder, index, tmp_path / "old", FeatureTableConfig())
    with pytest.raises(OdisError, match="readout: obj -> cls"):
        export_features(encoder, index, tmp_path / "old", FeatureTableConfig(QueryConfig(readout="cls")))
    narrow = FeatureTableConfig(QueryConfig(mask_coverage=1.0))
    with pytest.raises(OdisError, match=r"mask_coverage: None -> 1\.0"):
        export_features(encoder, index, tmp_path / "old", narrow)


def test_a_second_call_makes_only_what_is_missing(
    encoder: Encoder, index: ObjectIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = FeatureTableConfig(QueryConfig(("crop",)), part_images=2)
    parts = export_features(encoder, index, tmp_path / "out", settings)
    whole = [p.read_bytes() for p in parts]
    parts[1].unlink()
    (tmp_path / "out" / ".part-00001.parquet.1.partial").write_bytes(b"torn")  # what a killed process leaves
    asked: list[list[int]] = []
    stream = export.stream_index
    monkeypatch.setattr(
        export, "stream_index", lambda *a, **k: (asked.append(list(k["rows"])), stream(*a, **k))[1]
    )
    seen: list[tuple[int, int]] = []
    assert (
        export_features(
            encoder, index, tmp_path / "out", settings, progress=lambda n, total: seen.append((n, total))
        )
        == parts
    )
    assert asked == [[2, 3]]
    assert seen[-1] == (7, 7)
    assert [p.read_bytes() for p in parts] == whole
    assert len(vectors(tmp_path / "out")) == sum(i % 4 for i in range(7)), "what is torn is not read"


def test_a_damaged_part_is_named_and_made_again(encoder: Encoder, index: ObjectIndex, tmp_path: Path) -> None:
    settings = FeatureTableConfig(QueryConfig(("crop",)), part_images=4)
    part = export_features(encoder, index, tmp_path / "out", settings)[1]
    whole, rng = part.read_bytes(), np.random.default_rng(0)
    for at in rng.integers(0, len(whole), 8):
        data = bytearray(whole)
        data[at] ^= 1 << int(rng.integers(8))
        part.write_bytes(data)
        with pytest.warns(OdisWarning, match=rf"{part.name}: is .*; it is made again$"):
            export_features(encoder, index, tmp_path / "out", settings)
        assert part.read_bytes() == whole


def test_ranks_share_the_parts_and_write_what_one_process_writes(
    encoder: Encoder, index: ObjectIndex, tmp_path: Path
) -> None:
    settings = FeatureTableConfig(read=ReadConfig(batch_size=3), part_images=2)
    alone = export_features(encoder, index, tmp_path / "one", settings)
    shares = [
        export_features(encoder, index, tmp_path / "two", settings, rank=rank, world_size=2)
        for rank in (1, 0)
    ]
    assert sorted(p.name for share in shares for p in share) == [p.name for p in alone]
    assert all((tmp_path / "two" / p.name).read_bytes() == p.read_bytes() for p in alone)


def test_what_cannot_be_used_is_named_and_strict_stops(
    encoder: Encoder, index: ObjectIndex, tmp_path: Path
) -> None:
    rows = [index[1], ImageObjects("gone.png", 9, 9, (Object((0, 0, 5, 5)),)), index[2]]
    write_index(tmp_path / "index.parquet", rows, root=index.root, provenance="x", classes=["cat", "dog"])
    damaged, named = ObjectIndex.open(tmp_path / "index.parquet"), list[Skipped]()
    export_features(encoder, damaged, tmp_path / "out", FeatureTableConfig(), skip=named.append)
    assert [Path(s.what).name for s in named] == ["gone.png"]
    assert pq.read_table(tmp_path / "out")["row"].to_pylist() == [0, 2, 2]
    with pytest.raises(DataError, match=r"gone\.png"):
        export_features(
            encoder, damaged, tmp_path / "strict", FeatureTableConfig(read=ReadConfig(strict=True))
        )
    assert list((tmp_path / "strict").glob("*.parquet")) == []


def test_refusals(encoder: Encoder, index: ObjectIndex, tmp_path: Path) -> None:
    export_features(encoder, index, tmp_path / "out", FeatureTableConfig())
    with pytest.raises(
        OdisError, match=r"out: holds features of another kind \(mode: masked-attention -> crop\)"
    ):
        export_features(encoder, index, tmp_path / "out", FeatureTableConfig(QueryConfig(("crop",))))
    other = Encoder(build_vit(MODEL, 16, drop_path=0.0), 16, encoder.mean, encoder.std, source="tiny")
    with pytest.raises(OdisError, match=r"another kind \(weights: \w+ -> \w+\)"):
        export_features(other, index, tmp_path / "out", FeatureTableConfig())
    rows = [
        ImageObjects(
            r.image, r.width, r.height, tuple(Object((0, 0, 9, 9), label=o.label) for o in r.objects)
        )
        for r in index
    ]
    write_index(
        tmp_path / "index.parquet", rows, root=index.root, provenance=index.provenance, classes=index.classes
    )
    with pytest.raises(OdisError, match=r"another kind \(index_content: \w+ -> \w+\)"):
        export_features(
            encoder, ObjectIndex.open(tmp_path / "index.parquet"), tmp_path / "out", FeatureTableConfig()
        )
    shutil.copy(index.path, tmp_path / "moved.parquet")
    export_features(
        encoder,
        ObjectIndex.open(tmp_path / "moved.parquet", root=index.root),
        tmp_path / "out",
        FeatureTableConfig(),
    )
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(OdisError, match="other: exists and is no folder of features"):
        export_features(encoder, index, tmp_path / "other", FeatureTableConfig())
    (tmp_path / "out" / "_about.json").write_text("{")
    with pytest.raises(DataError, match="is not whole"):
        export_features(encoder, index, tmp_path / "out", FeatureTableConfig())
    for settings, message in (
        (FeatureTableConfig(dtype="int8"), "dtype 'int8' is none of fp16, fp32"),
        (FeatureTableConfig(part_images=0), "part-images 0 must be 1 or more"),
        (FeatureTableConfig(read=ReadConfig(workers=-1)), "workers -1"),
        (FeatureTableConfig(QueryConfig(("crops",))), "mode 'crops' is none of"),
    ):
        with pytest.raises(OdisError, match=message):
            export_features(encoder, index, tmp_path / "new", settings)
    assert not (tmp_path / "new").exists()
    encoder_of_nan = Encoder(encoder.model, 16, encoder.mean, (float("nan"),) * 3)
    with pytest.raises(OdisError, match="not finite"):
        export_features(encoder_of_nan, index, tmp_path / "nan", FeatureTableConfig())


def test_the_command(
    encoder: Encoder, index: ObjectIndex, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = {
        n: getattr(MODEL, n)
        for n in ("name", "patch_size", "embed_dim", "depth", "num_heads", "object_tokens", "object_readout")
    }
    card = {
        "model": fields,
        "image_size": 16,
        "mean": [0.5] * 3,
        "std": [0.2] * 3,
        "mask_coverage": 0.5,
        "mask_margin": 0,
        "provenance": "x",
    }
    save_model(tmp_path / "model.safetensors", encoder.model, card)
    out = tmp_path / "features"
    arguments = [
        "embed",
        index.path,
        "--model",
        str(tmp_path / "model.safetensors"),
        "--out",
        str(out),
        "--dtype",
        "fp16",
        "--device",
        "cpu",
    ]
    main([*arguments, "--workers", "2", "--part-images", "4"])
    assert capsys.readouterr().out == f"{out}\n"
    assert vectors(out).shape == (9, 32)
    main([*arguments, "--workers", "0", "--part-images", "4", "--batch-size", "2"])  # how fast may change
    for wrong, message in (
        ([], "part_images: 4 -> 2048"),
        (["--dtype", "x"], "dtype 'x' is none of"),
        (["--model", ""], "--model is required"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([*arguments, *wrong])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err

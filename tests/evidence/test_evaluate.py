"""Kept backbones on other data: what is measured, what is left out and named, what is not measured again."""

import json
import shutil
from dataclasses import replace

import pytest


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Two small networks as a study keeps them, and an index of scenes of digits with masks."""
    import cell
    import supervised
    import worlds

    from odis.config.options import load_recipe
    from odis.inference import Encoder

    folder = tmp_path_factory.mktemp("kept") / "small"
    folder.mkdir()
    world = worlds.worlds()["scenes"].of_size(24)
    config = load_recipe(str(world.base), data="-", model__embed_dim=32, model__depth=1, model__num_heads=2)
    for name, tokens in (("ibot.100k-seed0", "single"), ("odis-read-only-all.100k-seed0", "read-only")):
        config.model.object_tokens = tokens
        network = supervised.Classifier(config, 10)
        encoder = Encoder.of(network.backbone, config)
        encoder.card = supervised.card_of(config, world.index("train", folder.parent), network)
        cell.keep_backbone(encoder, folder / f"{name}.safetensors")
    about = {"cell": "ibot.100k", "seed": 0, "asked": "crop", "images_seen": 99968}
    about["config"] = {"train": {"precision": "bf16"}}
    (folder / "ibot.100k-seed0.json").write_text(json.dumps(about))
    return folder, world.index("train", folder.parent), world.index("test", folder.parent)


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch):
    import measure

    monkeypatch.setattr(measure, "PROBE_STEPS", 20)


def test_every_backbone_has_a_row_and_is_measured_once(kept, tmp_path):
    import evaluate

    folder, train, test = kept
    out, said = tmp_path / "on" / "digits.json", []
    first = evaluate.evaluate(folder, train, test, out, only=["ibot"], say=said.append)
    assert list(first["rows"]) == ["ibot.100k-seed0"]
    row = first["rows"]["ibot.100k-seed0"]
    assert (row["cell"], row["asked"], row["images_seen"], row["left_out"]) == (
        "ibot.100k",
        "crop",
        99968,
        {},
    )
    assert set(row["scores"]) == {"knn", "knn_both", *evaluate.SCORES}
    assert json.loads(out.read_text()) == first
    whole = evaluate.evaluate(folder, train, test, out, say=said.append)
    assert said == ["ibot.100k-seed0: measured", "odis-read-only-all.100k-seed0: measured"]
    assert whole["rows"]["ibot.100k-seed0"] == row
    assert row["scores"]["knn_both"] == {}  # its [CLS] is its object token
    both = whole["rows"]["odis-read-only-all.100k-seed0"]["scores"]["knn_both"]
    assert set(both) == {"masked-attention", "masked-attention, window"}
    lines = evaluate.table(whole).splitlines()
    assert len(lines) == 4
    score = row["scores"]["knn"]["crop"]
    shown = f"| {score['value']:.1f} ± {(score['high'] - score['low']) / 2:.1f} |"
    assert shown in lines[2]
    assert lines[3].startswith("| `odis-read-only-all.100k-seed0` | - |")  # nothing lies beside it
    with pytest.raises(evaluate.OdisError, match="is of other data; give another --out or --name"):
        evaluate.evaluate(folder, test, train.__class__.open(one_class(test, tmp_path)), out)


def one_class(index, folder):
    """The index with all objects of one class."""
    from dataclasses import replace

    from odis.objects.index import write_index

    rows = [replace(row, objects=tuple(replace(o, label=0) for o in row.objects)) for row in index]
    path = folder / "one.parquet"
    write_index(path, rows[:-1], root=index.root, provenance="annotated", classes=["digit"])
    return path


def test_what_data_of_one_class_cannot_measure_is_named(kept, tmp_path):
    import evaluate

    folder, train, _ = kept
    index = train.__class__.open(one_class(train, tmp_path))
    out = tmp_path / "one.json"
    found = evaluate.evaluate(folder, index, index, out, only=["ibot"], say=lambda _: None)
    row = found["rows"]["ibot.100k-seed0"]
    assert set(row["left_out"]) == {"knn", "probes"}
    assert all(why.startswith("one.parquet: ") and "class" in why for why in row["left_out"].values())
    assert set(row["scores"]) == {"dense_knn", "hummingbird", "corloc"}
    header = evaluate.table(found).splitlines()[0]
    assert header == "| backbone | asked by | dense k-NN | Hummingbird | CorLoc |"


def test_mistakes_are_one_line(kept, tmp_path, monkeypatch, capsys):
    import evaluate

    folder, train, _ = kept
    for arguments, said in (
        (("--train", train.path), "--train and --test go together"),
        ((), "give --train and --test, or --coco, or --nuclei"),
    ):
        monkeypatch.setattr("sys.argv", ["evaluate.py", str(folder), *arguments])
        with pytest.raises(SystemExit):
            evaluate.main()
        assert said in capsys.readouterr().err
    empty = ["evaluate.py", str(tmp_path), "--train", train.path, "--test", train.path]
    monkeypatch.setattr("sys.argv", empty)
    with pytest.raises(SystemExit, match="holds no kept backbone"):
        evaluate.main()


def test_a_network_is_asked_with_masks_of_every_width(kept, tmp_path):
    """At the width it was trained with that is the measure of the study, to the bit."""
    import mask_widths
    import measure
    import tables
    from figures import Results

    from odis.inference import load

    folder, train, test = kept
    beside = tmp_path / "digits"
    shutil.copytree(folder, beside)
    said = []
    found = mask_widths.measure_widths(beside, train, test, ["read-only"], said.append)
    assert list(found) == ["odis-read-only-all.100k-seed0"]
    row = found["odis-read-only-all.100k-seed0"]
    encoder = load(beside / "odis-read-only-all.100k-seed0.safetensors", device="auto")
    assert row["trained_at"] == [encoder.mask_coverage, 0] == [0.3, 0]
    encoder = replace(encoder, mask_coverage=0.5)
    for way in mask_widths.MASKED:
        usual = measure.knn_of(encoder, train, test, 2 * encoder.image_size, way, "obj")
        assert row["scores"]["half"][way] == usual
        # Whole patches have no ring, whatever a network was trained with.
        ringed, narrow = replace(encoder, mask_margin=1), way + measure.WHOLE_PATCHES
        whole = measure.knn_of(ringed, train, test, 2 * encoder.image_size, narrow, "obj")
        assert row["scores"]["whole patches"][way] == whole
    mask_widths.measure_widths(beside, train, test, say=said.append)
    assert said == ["odis-read-only-all.100k-seed0: measured", "ibot.100k-seed0: measured"]
    table = tables.made("mask-widths digits", {"digits": Results.read(beside)})
    assert len(table.splitlines()) == 2 + 2 * 2
    assert "| `ibot.100k-seed0` | .3, 0 | masked-attention |" in table
    with pytest.raises(mask_widths.OdisError, match="holds no kept backbone"):
        mask_widths.measure_widths(beside, train, test, ["dino"])

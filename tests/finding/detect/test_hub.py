"""Networks of transformers: folders, the hub's cache, and everything that can be missing."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from odis.errors import ConfigError, DataError, OdisError
from odis.finding.detect.hub import load_pretrained
from odis.finding.detect.load import DetectSettings, build_detector

DETECTION, MASKS = "AutoModelForZeroShotObjectDetection", "AutoModelForMaskGeneration"


def test_a_folder_is_named_and_its_weights_tell_the_revision(owl_v2: Path, tmp_path: Path):
    first = load_pretrained(str(owl_v2), DETECTION, "with")
    shutil.copytree(owl_v2, tmp_path / "other")
    assert load_pretrained(str(tmp_path / "other"), DETECTION, "with").revision == first.revision
    weights = load_file(tmp_path / "other" / "model.safetensors")
    key = next(iter(weights))
    save_file(
        weights | {key: weights[key] + 1}, tmp_path / "other" / "model.safetensors", metadata={"format": "pt"}
    )
    changed = load_pretrained(str(tmp_path / "other"), DETECTION, "with")
    assert (first.name, first.kind, changed.name) == (owl_v2.name, "owlv2", "other")
    assert len(first.revision) == len(changed.revision) == 12
    assert changed.revision != first.revision


def test_missing_weights_are_refused_and_not_started_at_random(owl_v2: Path, tmp_path: Path):
    shutil.copytree(owl_v2, tmp_path / "part")
    weights = load_file(tmp_path / "part" / "model.safetensors")
    weights = {key: value for key, value in weights.items() if "box_head.dense1" not in key}
    save_file(weights, tmp_path / "part" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"the weights of .*part lack box_head.dense1.bias and 1 other"):
        load_pretrained(str(tmp_path / "part"), DETECTION, "with")


@pytest.mark.parametrize("spoiled", ["config.json", "model.safetensors"])
def test_a_folder_that_is_not_whole_is_named(spoiled: str, owl_v2: Path, tmp_path: Path):
    for how in ("removed", "cut"):
        shutil.copytree(owl_v2, tmp_path / how)
        path = tmp_path / how / spoiled
        path.unlink() if how == "removed" else path.write_bytes(path.read_bytes()[:100])
        with pytest.raises(DataError, match="holds no network that transformers can load") as raised:
            load_pretrained(str(tmp_path / how), DETECTION, "with")
        assert str(tmp_path / how) in str(raised.value)
        assert "\n" not in str(raised.value)


def test_code_in_a_folder_is_not_run_also_if_somebody_says_yes(
    owl_v2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The library asks on a terminal, and takes `y` from a pipe too."""
    folder, ran = tmp_path / "payload", tmp_path / "ran"
    shutil.copytree(owl_v2, folder)
    code = (
        f"import pathlib\npathlib.Path({str(ran)!r}).touch()\nfrom transformers import Owlv2Config as Mine\n"
    )
    (folder / "mine.py").write_text(code)
    config = json.loads((folder / "config.json").read_text())
    classes = {"AutoConfig": "mine.Mine", "AutoProcessor": "mine.Mine", DETECTION: "mine.Mine"}
    config |= {"model_type": "of-its-own", "auto_map": classes}
    (folder / "config.json").write_text(json.dumps(config))
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda *prompt: asked.append(*prompt) or "y")
    with pytest.raises(DataError, match="no code from a folder or the hub is run") as raised:
        load_pretrained(str(folder), DETECTION, "with")
    assert not ran.exists()
    assert asked == []
    assert "trust_remote_code" not in str(raised.value)


def test_a_network_for_something_else_is_refused(owl_v2: Path, sam: Path):
    with pytest.raises(ConfigError, match=r"^with: .* is a sam network; .* grounding-dino, .*owlv2"):
        load_pretrained(str(sam), DETECTION, "with")
    with pytest.raises(ConfigError, match=r"^masks: .* is a owlv2 network; .*sam"):
        load_pretrained(str(owl_v2), MASKS, "masks")


def test_without_network_and_folder_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OdisError) as raised:
        load_pretrained("nobody/owl-that-is-nowhere@main", DETECTION, "with")
    line = str(raised.value)
    assert line.startswith("with: transformers:nobody/owl-that-is-nowhere@main is no folder here")
    assert "HF_HOME" in line
    assert "save_pretrained" in line
    assert "\n" not in line
    with pytest.raises(ConfigError, match="needs a folder or a name"):
        load_pretrained("@main", DETECTION, "with")


def test_without_transformers_the_command_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        OdisError, match=r"^masks: transformers is not installed; pip install 'odis\[detect\]'$"
    ):
        load_pretrained("somebody/sam", MASKS, "masks")


def test_the_cache_of_the_hub_is_read_and_its_commit_is_the_revision(
    owl_v2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--somebody--owl"
    shutil.copytree(owl_v2, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # HF_HOME is read when huggingface_hub is imported.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(
        "transformers.utils.hub.TRANSFORMERS_CACHE", str(tmp_path / "hub"), raising=False
    )  # of older versions
    for source in ("somebody/owl", "somebody/owl@main", f"somebody/owl@{commit}"):
        detector = build_detector(DetectSettings(f"transformers:{source}", prompt="cat"))
        assert detector.provenance == f"detected:somebody/owl@{commit}"
    with pytest.raises(OdisError, match="cannot be had from the hub"):
        load_pretrained("somebody/owl@other", DETECTION, "with")

"""Building in parts: an interrupted build goes on where it stopped, and ends as one that was not
interrupted.
"""

import gc
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from odis.cli import main
from odis.errors import ConfigError, DataError
from odis.machine.locks import sole_owner
from odis.objects import build as build_module
from odis.objects.build import Summary, build_index
from odis.objects.index import ObjectIndex
from odis.objects.parts import Parts
from odis.types import Skipped

KILLED = """
import os, signal, sys
from odis.objects.build import build_index
met = []
def report(skipped):
    met.append(skipped)
    if len(met) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
build_index("coco", sys.argv[1], sys.argv[2], "val", report=report, part_size=3)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve images of two objects, of which the second can be used in every other image; the sixth is
    missing, and listed twice.
    """
    root = tmp_path / "data"
    (root / "val").mkdir(parents=True)
    for k in range(12):
        if k != 5:
            Image.new("L", (8, 6)).save(root / f"val/{k}.png")
    write(root)
    return root


def write(root: Path, first_box: tuple[int, int, int, int] = (1, 1, 2, 2)) -> None:
    images = [{"id": k % 12, "file_name": f"{k}.png", "width": 8, "height": 6} for k in range(12)]
    images.append(images[5])
    boxes = [list(first_box), *[[k % 3, 1, 2, 2] if k < 12 else [2, 2, k % 2, 3] for k in range(1, 24)]]
    annotations = [
        {"id": k, "image_id": k % 12, "category_id": 1, "bbox": box} for k, box in enumerate(boxes)
    ]
    (root / "annotations").mkdir(exist_ok=True)
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    (root / "annotations/instances_val.json").write_text(json.dumps(content))


def build(root: Path, out: Path, **options: Any) -> Summary:
    return build_index("coco", root, out, "val", **{"part_size": 3, **options})


class Stop(Exception):
    """What a test stops a build with, in the place of Ctrl-C."""


def stopped(root: Path, out: Path, parts: int, **options: Any) -> None:
    """A build that stops before it writes another than the first `parts`."""
    count = [0]

    def write(self: Parts, *arguments: Any, **others: Any) -> None:
        count[0] += 1
        if count[0] > parts:
            raise Stop
        real(self, *arguments, **others)

    real = Parts.write
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Parts, "write", write)
        with pytest.raises(Stop):
            build(root, out, **options)


def test_a_killed_build_ends_as_one_that_was_not(root: Path, tmp_path: Path) -> None:
    whole = build(root, tmp_path / "whole.parquet")
    out = tmp_path / "out" / "parts"
    killed = subprocess.run([sys.executable, "-c", KILLED, root, out], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not out.exists()
    work = tmp_path / "out" / ".parts.parts"
    made = sorted(p.name for p in work.glob("*.parquet"))
    assert made == ["000000.parquet"]
    reported: list[Skipped] = []
    real, written = Parts.write, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Parts,
            "write",
            lambda self, part, *rest, **others: (written.append(part), real(self, part, *rest, **others))[1],
        )
        summary = build(root, out, report=reported.append)
    assert written == [1, 2, 3]
    assert (str(summary), summary.provenance) == (
        str(whole)
        .replace(str(tmp_path / "whole.parquet"), str(out))
        .replace(str(tmp_path / "whole.skipped.jsonl"), f"{out}.skipped.jsonl"),
        "annotated",
    )
    assert list(ObjectIndex.open(out)) == list(ObjectIndex.open(tmp_path / "whole.parquet"))
    assert (
        len(reported) < whole.images_skipped + whole.objects_skipped
    )  # those of the finished part were reported then
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["parts", "parts.skipped.jsonl"]
    lists = [
        path / name
        for path, name in ((tmp_path, "whole.skipped.jsonl"), (tmp_path / "out", "parts.skipped.jsonl"))
    ]
    assert lists[0].read_bytes() == lists[1].read_bytes()


def test_a_kill_while_the_parts_are_removed_leaves_nothing_in_the_way(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the hidden folder is gone: what is left of it is neither taken for work nor kept for ever."""
    out = tmp_path / "out" / "x.parquet"

    def killed(folder: Path, **_: Any) -> None:
        for path in sorted(Path(folder).iterdir())[::2]:
            path.unlink()
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", killed)
        with pytest.raises(Stop):
            build(root, out)
    assert len(list(ObjectIndex.open(out))) == 11
    build(root, out)
    assert sorted(p.name for p in out.parent.iterdir()) == ["x.parquet", "x.skipped.jsonl"]


def test_an_index_that_another_call_makes_is_refused(root: Path, tmp_path: Path) -> None:
    with sole_owner(tmp_path / "x.parquet"), pytest.raises(DataError, match="another call in this process"):
        build(root, tmp_path / "x.parquet")
    with sole_owner(tmp_path / "x", "1-of-2"):
        build(root, tmp_path / "x", shard=(2, 2))


@pytest.mark.parametrize("parts", range(4))
def test_wherever_it_stops(root: Path, tmp_path: Path, parts: int) -> None:
    whole = build(root, tmp_path / "i.parquet")
    rows = list(ObjectIndex.open(tmp_path / "i.parquet"))
    listed = (tmp_path / "i.skipped.jsonl").read_bytes()
    assert len(listed.splitlines()) == whole.images_skipped + whole.objects_skipped > 0
    (tmp_path / "i.parquet").unlink()
    (tmp_path / "i.skipped.jsonl").unlink()
    stopped(root, tmp_path / "i.parquet", parts)
    assert not (tmp_path / "i.parquet").exists()
    assert build(root, tmp_path / "i.parquet") == whole
    assert list(ObjectIndex.open(tmp_path / "i.parquet")) == rows
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "i.parquet", "i.skipped.jsonl"]
    assert (tmp_path / "i.skipped.jsonl").read_bytes() == listed


@pytest.mark.parametrize("change", [{"part_size": 4}, {"trust": True}, {"strict": True}])
def test_other_settings_are_refused(root: Path, tmp_path: Path, change: dict) -> None:
    stopped(root, tmp_path / "i.parquet", 1)
    with pytest.raises(
        DataError, match=rf"begun with other settings \({next(iter(change))}: .*; give those, or remove"
    ):
        build(root, tmp_path / "i.parquet", **change)
    assert build(root, tmp_path / "i.parquet").written == 11


def test_what_stops_before_a_part_is_finished_binds_nobody(root: Path, tmp_path: Path) -> None:
    stopped(root, tmp_path / "i.parquet", 0)
    assert [p.name for p in tmp_path.iterdir()] == ["data"]
    assert build(root, tmp_path / "i.parquet", part_size=4).written == 11


def test_other_data_are_refused(root: Path, tmp_path: Path) -> None:
    stopped(root, tmp_path / "i.parquet", 2)
    write(root, (0, 0, 3, 3))
    with pytest.raises(
        DataError, match=r"the data have changed since part 1 of it was made; remove .*parts to begin again"
    ):
        build(root, tmp_path / "i.parquet")
    write(root)
    assert build(root, tmp_path / "i.parquet").written == 11


def test_strict_leaves_nothing_behind(root: Path, tmp_path: Path) -> None:
    for part_size in (1, 3, 100):
        for shard, out in (((1, 1), "i.parquet"), ((2, 2), "parts")):
            with pytest.raises(DataError):
                build(root, tmp_path / out, strict=True, part_size=part_size, shard=shard)
            assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_a_part_is_a_file_of_the_folder(root: Path, tmp_path: Path) -> None:
    build(root, tmp_path / "parts")
    files = sorted(p.name for p in (tmp_path / "parts").iterdir())
    assert files == [f"{k:06d}-of-000004.parquet" for k in range(1, 5)]
    assert [pq.read_metadata(tmp_path / "parts" / file).num_rows for file in files] == [3, 2, 3, 3]
    again = build(root, tmp_path / "parts")  # the same command makes the same
    assert again.written == 11
    assert sorted(p.name for p in (tmp_path / "parts").iterdir()) == files


def test_a_folder_is_not_filled_with_files_of_two_indexes(root: Path, tmp_path: Path) -> None:
    build(root, tmp_path / "parts")
    content = json.loads((root / "annotations/instances_val.json").read_text())
    content["images"] = content["images"][:6]
    (root / "annotations/instances_val.json").write_text(json.dumps(content))
    with pytest.raises(
        DataError,
        match=r"holds 000001-of-000004\.parquet, of an index in another number of parts than 2; remove it",
    ):
        build(root, tmp_path / "parts")
    assert len(ObjectIndex.open(tmp_path / "parts")) == 11


@pytest.mark.parametrize("shard", [(0, 2), (3, 2), (1, 0)])
def test_shards_that_are_none_are_refused(root: Path, tmp_path: Path, shard: tuple[int, int]) -> None:
    with pytest.raises(
        ConfigError, match=rf"shard: is {shard[0]}/{shard[1]}, must be i/n with i from 1 to n"
    ):
        build(root, tmp_path / "parts", shard=shard)
    with pytest.raises(ConfigError, match="part-size: is 0"):
        build(root, tmp_path / "parts", part_size=0)


def test_a_shard_without_parts_ends_well(root: Path, tmp_path: Path) -> None:
    summaries = [build(root, tmp_path / "parts", shard=(i, 9)) for i in range(1, 10)]
    assert [summary.written for summary in summaries] == [3, 2, 3, 3, 0, 0, 0, 0, 0]
    assert len(ObjectIndex.open(tmp_path / "parts")) == 11


def test_a_shard_needs_a_folder_and_an_unfinished_index_is_not_opened(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="shards need a folder to write into"):
        build(root, tmp_path / "i.parquet", shard=(1, 2))
    build(root, tmp_path / "parts", shard=(1, 2))
    with pytest.raises(DataError, match="the index is not whole: it lacks 2 of its 4 parts"):
        ObjectIndex.open(tmp_path / "parts")


def test_python_looks_for_cycles_seldom_while_it_builds_and_as_before_then(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = gc.get_threshold()
    during: list[int] = []
    real = build_module._make
    monkeypatch.setattr(
        build_module, "_make", lambda *rest: (during.append(gc.get_threshold()[0]), real(*rest))[1]
    )
    build(root, tmp_path / "i.parquet")
    with pytest.raises(DataError):
        build(root, tmp_path / "j.parquet", strict=True)
    assert during[0] >= 200_000
    assert gc.get_threshold() == before


def test_the_command_line_makes_shards(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = str(tmp_path / "parts")
    common = ["index", "coco", str(root), "--split", "val", "--out", out, "--part-size", "5"]
    main([*common, "--shard", "2/2"])
    assert capsys.readouterr().out == f"{out}\n"
    main([*common, "--shard", "1/2"])
    captured = capsys.readouterr()
    assert "7 of 8 images (1 skipped), 10 of 14 objects (4 skipped, 0 crowds)" in captured.err
    assert captured.out == f"{out}\n"
    assert len(ObjectIndex.open(out)) == 11
    main(["index", "coco", str(root), "--split", "val", "--out", str(tmp_path / "i.parquet"), "--trust"])
    assert "12 of 13 images" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*common, "--shard", "half"])
    assert "shard: is 'half', must be i/n, for example 1/4" in capsys.readouterr().err


def test_links_are_kept_to_images_beside_a_folder_that_moves(root: Path, tmp_path: Path) -> None:
    (tmp_path / "both").mkdir()
    os.rename(root, tmp_path / "both/data")
    build(tmp_path / "both/data", tmp_path / "both/parts")
    os.rename(tmp_path / "both", tmp_path / "moved")
    index = ObjectIndex.open(tmp_path / "moved/parts")
    assert os.path.isfile(index.image_path(0))

"""Features of the index: those of `embed_index`, made once, kept, and made again for other weights."""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from odis.config.query import QueryConfig, ReadConfig
from odis.errors import DataError
from odis.explorer import features as module
from odis.explorer.features import FeatureBank, home_of
from odis.inference import Encoder, load
from odis.inference.stream import embed_index
from odis.machine.locks import sole_owner
from odis.objects.index import ObjectIndex


@pytest.fixture(scope="module")
def encoder(models: tuple[str, str]) -> Encoder:
    return load(models[0])


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_IMAGES", 4)


def bank(encoder: Encoder, scenes: Path, home: Path) -> FeatureBank:
    query = QueryConfig(("masked-attention",), size=32)
    return FeatureBank(encoder, ObjectIndex.open(scenes), query, ReadConfig(batch_size=3), home, "content")


def parts(one: FeatureBank) -> dict[str, tuple[bytes, int]]:
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in one.folder.glob("part-*")}


def never(*_: Any, **__: Any) -> None:
    raise AssertionError("nothing is embedded again")


@pytest.mark.usefixtures("few")
def test_they_are_those_of_the_index_and_are_read_not_made_again(
    encoder: Encoder, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = bank(encoder, scenes, tmp_path)
    searched: list[int] = []
    one.fill(lambda: searched.append(len(one.search)))
    assert sorted(set(searched)) == [0, 8, 16, 20], "what is embedded can be searched at once"
    assert one.done
    exact = embed_index(encoder, ObjectIndex.open(scenes), batch_size=3)
    for k in (0, 7, 19):
        best = one.search.nearest(exact.features[k], 1)[0]
        assert (best.row, best.number) == (int(exact.rows[k]), int(exact.numbers[k]))
        assert best.cosine == pytest.approx(1, abs=1e-5)
    before = parts(one)
    monkeypatch.setattr(encoder, "run_queries", never)
    again = bank(encoder, scenes, tmp_path)
    again.fill(lambda: None)
    assert again.state() == one.state() | {"started": again.started}
    assert parts(again) == before
    assert [p.name for p in tmp_path.iterdir()] == [one.folder.name], "no lock and nothing temporary stays"


@pytest.mark.usefixtures("few")
def test_a_stop_loses_one_part_at_most(encoder: Encoder, scenes: Path, tmp_path: Path) -> None:
    class Stop(BaseException):
        pass

    one = bank(encoder, scenes, tmp_path)

    def pause() -> None:
        if one.images > 6:
            raise Stop

    with pytest.raises(Stop):
        one.fill(pause)
    assert len(one.search) == 8
    kept = parts(one)
    assert list(kept) == ["part-00000.parquet"]
    again = bank(encoder, scenes, tmp_path)
    again.fill(lambda: None)
    assert again.done
    assert parts(again)["part-00000.parquet"] == kept["part-00000.parquet"]
    assert len(again.search) == 20


@pytest.mark.usefixtures("few")
def test_a_damaged_part_is_made_again(encoder: Encoder, scenes: Path, tmp_path: Path) -> None:
    one = bank(encoder, scenes, tmp_path)
    one.fill(lambda: None)
    path = one.folder / "part-00001.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    again = bank(encoder, scenes, tmp_path)
    with pytest.warns(UserWarning, match="it is made again"):
        again.fill(lambda: None)
    assert path.read_bytes() == whole
    assert len(again.search) == 20


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("spoilt", [b"", b"{", b"[]", b"{}"])
def test_an_account_that_is_no_account_is_made_again(
    encoder: Encoder, scenes: Path, tmp_path: Path, spoilt: bytes
) -> None:
    one = bank(encoder, scenes, tmp_path)
    one.folder.mkdir(parents=True)
    (one.folder / module.ABOUT).write_bytes(spoilt)
    (one.folder / "part-00000.parquet").write_bytes(b"of something else")
    one.fill(lambda: None)
    assert len(one.search) == 20


def test_features_of_other_weights_are_made_again_and_those_of_another_index_apart(
    encoder: Encoder, models: tuple[str, str], scenes: Path, tmp_path: Path
) -> None:
    one, other = bank(encoder, scenes, tmp_path), bank(load(models[1]), scenes, tmp_path)
    assert one.folder == other.folder, "a run that trained on keeps one table"
    one.fill(lambda: None)
    other.fill(lambda: None)
    weights = json.loads((other.folder / module.ABOUT).read_text())["weights"]
    exact = embed_index(load(models[1]), ObjectIndex.open(scenes))
    assert other.search.nearest(exact.features[3], 1)[0].cosine == pytest.approx(1, abs=1e-5)
    one.fill(lambda: None)
    assert json.loads((one.folder / module.ABOUT).read_text())["weights"] != weights
    windowed = QueryConfig(("masked-attention",), size=32, context=1.5)
    index = ObjectIndex.open(scenes)
    assert FeatureBank(encoder, index, windowed, ReadConfig(), tmp_path, "content").folder != one.folder


def test_a_second_explorer_of_the_same_features_waits_and_says_so(
    encoder: Encoder, scenes: Path, tmp_path: Path
) -> None:
    one = bank(encoder, scenes, tmp_path)
    one.started = True
    with sole_owner(one.folder, "explore"), pytest.raises(DataError):
        one.fill(lambda: None)
    assert one.problem is not None
    assert "is writing it" in one.problem
    assert not one.started, "it is tried again when somebody asks"
    one.fill(lambda: None)
    assert one.problem is None


def test_images_that_cannot_be_read_are_counted_and_named(
    encoder: Encoder, scenes: Path, tmp_path: Path
) -> None:
    index = ObjectIndex.open(scenes)
    for row in range(1, len(index)):
        (tmp_path / index.image_name(row)).write_bytes(Path(index.image_path(row)).read_bytes())
    index.root = tmp_path
    one = FeatureBank(encoder, index, QueryConfig(size=32), ReadConfig(), tmp_path / "home", "content")
    one.fill(lambda: None)
    assert len(one.search) == 18
    (line,) = one.state()["skipped"]
    assert "no such file" in line


def test_where_they_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, file = tmp_path / "run", tmp_path / "models" / "a.safetensors"
    run.mkdir()
    file.parent.mkdir()
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    assert home_of(str(run), "w") == run / "explore"
    assert home_of(str(file), "w") == file.parent / "explore" / "w"
    assert home_of("timm:vit_tiny_patch16_224", "w") == cache / "odis" / "explore" / "w"
    monkeypatch.setattr("os.access", lambda folder, mode: Path(folder) != run)  # root may write anywhere
    assert home_of(str(run), "w") == cache / "odis" / "explore" / "w"


def test_the_search_is_whole_while_it_grows(encoder: Encoder, scenes: Path, tmp_path: Path) -> None:
    """Questions of the page search in the thread that adds; another thread would only read its size."""
    one, sizes = bank(encoder, scenes, tmp_path), set[int]()
    thread = threading.Thread(target=one.fill, args=(lambda: None,))
    thread.start()
    while thread.is_alive():
        sizes.add(one.state()["objects"])
    thread.join()
    assert sizes | {20} <= {0, 20}
    feature = torch.from_numpy(np.ones(24, np.float32))
    assert len(one.search.nearest(feature, 30)) == 20


def test_what_goes_wrong_in_any_way_is_said_on_the_page(
    encoder: Encoder, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: Any, **__: Any) -> None:
        raise RuntimeError("not enough memory")

    one = bank(encoder, scenes, tmp_path)
    one.started = True
    monkeypatch.setattr(module, "export_features", no_memory)
    with pytest.raises(RuntimeError):
        one.fill(lambda: None)
    assert (one.state()["problem"], one.started) == ("not enough memory", False)

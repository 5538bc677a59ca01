"""`davis`: propagation, J and F against slow versions; the layout, chance and ceiling."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from odis.cli import main
from odis.errors import DataError, OdisError
from odis.evaluation.protocols.images import patches
from odis.evaluation.protocols.layouts.davis import open_davis, read_map
from odis.evaluation.protocols.video import davis as protocol
from odis.evaluation.protocols.video import propagation as carried
from odis.evaluation.protocols.video.davis import DavisSettings, evaluate_davis
from odis.evaluation.protocols.video.video_scores import (
    boundary,
    contour_accuracy,
    region_similarity,
    video_scores,
)

SETTINGS = DavisSettings(short=16, radius=2)
PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0] + [0] * 759


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of noise with squares that move."""
    root, rng = tmp_path_factory.mktemp("x") / "DAVIS", np.random.default_rng(0)
    for name, frames, objects in (("bear", 4, 1), ("two-dogs", 5, 2)):
        for part in ("JPEGImages", "Annotations"):
            (root / part / "480p" / name).mkdir(parents=True)
        for t in range(frames):
            labels, pixels = np.zeros((24, 100), np.uint8), rng.integers(0, 256, (24, 100, 3), dtype=np.uint8)
            for k in range(objects):
                labels[4 + k : 16 + k, 10 + 40 * k + 2 * t : 34 + 40 * k + 2 * t] = k + 1
            pixels[labels > 0] //= 3
            Image.fromarray(pixels).save(root / "JPEGImages" / "480p" / name / f"{t:05}.jpg")
            one = Image.fromarray(labels, mode="P")
            one.putpalette(PALETTE)
            one.save(root / "Annotations" / "480p" / name / f"{t:05}.png")
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("bear\ntwo-dogs\n")
    return root


def slow_propagation(frames: np.ndarray, first: np.ndarray, grid: tuple[int, int], how: carried.Propagation):
    """Label by label, patch by patch: section by section of `eval_video_segmentation.py`, as it is stated."""
    unit = frames / np.linalg.norm(frames, axis=2, keepdims=True)
    labels = [first]
    for t in range(1, len(frames)):
        sources = [0, *range(max(1, t - how.context), t)]
        made = np.zeros_like(first)
        for p in range(frames.shape[1]):
            y, x = divmod(p, grid[1])
            weights, given_labels = [], []
            for s in sources:
                for q in range(frames.shape[1]):
                    v, u = divmod(q, grid[1])
                    inside = abs(v - y) <= how.radius and abs(u - x) <= how.radius
                    weights.append(np.exp(unit[t, p] @ unit[s, q] / how.temperature) if inside else 0.0)
                    given_labels.append(labels[s][q])
            least = sorted(weights)[-min(how.top, len(weights))]
            kept = [w if w >= least else 0.0 for w in weights]
            made[p] = sum(w * of for w, of in zip(kept, given_labels, strict=True)) / sum(kept)
        labels.append(made)
    return labels[1:]


@pytest.mark.parametrize("seed", range(4))
def test_propagation_is_the_slow_one(seed: int):
    rng = np.random.default_rng(seed)
    grid = (3, 4) if seed % 2 else (4, 3)
    frames = rng.normal(size=(6, 12, 5))
    if seed == 3:  # patches that are alike share the last place
        frames[:, 6:] = frames[:, :6]
    first = np.eye(3)[rng.integers(0, 3, 12)]
    how = carried.Propagation(context=2, radius=1 + seed % 2, top=3, temperature=0.5)
    found = list(carried.propagate(map(torch.from_numpy, frames), torch.from_numpy(first), grid, how))
    expected = slow_propagation(frames, first, grid, how)
    assert len(found) == 5
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.numpy(), other, atol=1e-6)
        np.testing.assert_allclose(one.sum(1).numpy(), 1, atol=1e-12)


def test_blocks_of_patches_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    frames = torch.from_numpy(rng.normal(size=(4, 12, 5)))
    first = torch.eye(2)[torch.from_numpy(rng.integers(0, 2, 12))]
    whole = list(carried.propagate(iter(frames), first, (3, 4), carried.Propagation(radius=2)))
    monkeypatch.setattr(carried, "_AT_ONCE", 100)
    for one, other in zip(
        whole, carried.propagate(iter(frames), first, (3, 4), carried.Propagation(radius=2)), strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("size", "patch", "shown"),
    [
        ((854, 480), 16, (832, 480)),
        ((854, 480), 8, (832, 480)),
        ((480, 854), 16, (480, 832)),
        ((910, 480), 16, (896, 480)),
        ((854, 480), 14, (742, 420)),  # 53.4 patches: 53
        ((480, 854), 14, (420, 742)),
    ],
)
def test_frames_are_shown_at_the_stated_size(size, patch: int, shown):
    assert carried.shown_size(*size, patch) == shown
    assert carried.shown_size(64, 32, 8, 16) == (64, 16)  # never less than 64


def test_output_is_enlarged_scaled_and_compared(monkeypatch):
    rng = np.random.default_rng(0)
    shares = torch.from_numpy(rng.dirichlet(np.ones(3), 12)).float()
    found = carried.to_frame(shares, (3, 4), 4, 21, 13)
    # bilinear by hand: centres of patches at 4 k + 1.5
    maps = shares.numpy().T.reshape(3, 3, 4)

    def at(one: np.ndarray, y: float, x: float) -> float:
        y, x = min(max((y + 0.5) / 4 - 0.5, 0), 2), min(max((x + 0.5) / 4 - 0.5, 0), 3)
        a, b = int(y), int(x)
        c, d = min(a + 1, 2), min(b + 1, 3)
        fy, fx = y - a, x - b
        return (
            one[a, b] * (1 - fy) * (1 - fx)
            + one[a, d] * (1 - fy) * fx
            + one[c, b] * fy * (1 - fx)
            + one[c, d] * fy * fx
        )

    large = np.array([[[at(one, y, x) for x in range(16)] for y in range(12)] for one in maps])
    scaled = np.array([(one - one.min()) / (one.max() - one.min()) for one in large])
    small = scaled.argmax(0).astype(np.uint8)
    expected = np.asarray(Image.fromarray(small).resize((21, 13), Image.Resampling.NEAREST))
    assert (found == expected).all()
    flat = torch.tensor([[0.5, 0.5, 0.0]] * 12)
    assert (carried.to_frame(flat, (3, 4), 4, 16, 12) == 0).all()


MASKS = st.integers(0, 2**32 - 1).map(
    lambda seed: np.kron(
        np.random.default_rng(seed).random((3, 4)) < [0.0, 0.3, 0.5, 1.0][seed % 4], np.ones((5, 5))
    ).astype(bool)
)


def slow_f(mask: np.ndarray, truth: np.ndarray) -> float:
    """F by its formula, pixel by pixel."""
    height, width = mask.shape
    radius = int(np.ceil(0.008 * np.sqrt(height**2 + width**2)))

    def edges(one: np.ndarray) -> list[tuple[int, int]]:
        found = []
        for y in range(height):
            for x in range(width):
                down, right = y + 1 < height, x + 1 < width
                differs = right and one[y, x] != one[y, x + 1]
                differs = differs or (down and one[y, x] != one[y + 1, x])
                if differs or (down and right and one[y, x] != one[y + 1, x + 1]):
                    found.append((y, x))
        return found

    one, other = edges(mask), edges(truth)
    if not one and not other:
        return 1.0
    if not one or not other:
        return 0.0

    def share(of: list[tuple[int, int]], among: list[tuple[int, int]]) -> float:
        return float(
            np.mean([any((y - v) ** 2 + (x - u) ** 2 <= radius**2 for v, u in among) for y, x in of])
        )

    precision, recall = share(one, other), share(other, one)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@settings(deadline=None, max_examples=40)
@given(MASKS, MASKS)
def test_j_and_f_are_their_formulas(mask: np.ndarray, truth: np.ndarray):
    assert contour_accuracy(mask, truth) == pytest.approx(slow_f(mask, truth), abs=1e-9)
    union = np.logical_or(mask, truth).sum()
    expected = np.logical_and(mask, truth).sum() / union if union else 1
    assert region_similarity(mask, truth) == pytest.approx(expected)
    assert region_similarity(truth, truth) == contour_accuracy(truth, truth) == 1


def test_the_boundary_of_the_last_row_and_column_looks_one_way():
    mask = np.zeros((3, 3), bool)
    mask[2, 2] = True
    assert boundary(mask).astype(int).tolist() == [[0, 0, 0], [0, 1, 1], [0, 1, 0]]


def test_the_first_and_the_last_frame_do_not_count():
    truth = [np.full((4, 4), v, np.uint8) for v in (1, 1, 1, 2)]
    found = [np.zeros((4, 4), np.uint8), truth[1], np.zeros((4, 4), np.uint8), truth[3]]
    similarity, accuracy = video_scores(found, truth, 2)
    assert similarity.tolist() == [0.5, 1]  # the second object is in no frame that counts
    assert accuracy.tolist() == [1, 1]  # no mask has a boundary


def test_features_that_hold_the_labels_reach_the_ceiling(encoder, folder: Path, monkeypatch):
    videos = open_davis(folder)
    maps = [path for one in videos.videos for path in one.maps]
    asked = iter(maps)

    def tokens(model, pixels):
        grid = pixels.shape[-2] // 8, pixels.shape[-1] // 8
        labels = carried.one_hot(read_map(next(asked)), grid, (grid[1] * 8, grid[0] * 8), 2)
        return labels[None], grid

    monkeypatch.setattr(patches, "patch_tokens", tokens)
    found = {row["model"]: row for row in evaluate_davis(encoder(), videos, SETTINGS)["rows"]}
    assert found["tiny"]["scores"] == found["ceiling"]["scores"]
    assert found["chance"]["scores"]["J"]["value"] < 100
    assert found["ceiling"]["scores"]["J"]["value"] < 100


def test_the_first_mask_in_its_place_is_chance(encoder, folder: Path):
    videos = open_davis(folder)
    row = next(r for r in evaluate_davis(encoder(), videos, SETTINGS)["rows"] if r["model"] == "chance")
    by_hand = []
    for video in videos.videos:
        truth = [read_map(path) for path in video.maps]
        for k in range(1, int(truth[0].max()) + 1):
            overlaps = [region_similarity(truth[0] == k, one == k) for one in truth[1:-1]]
            by_hand.append(np.mean(overlaps))
    assert row["scores"]["J"]["value"] == pytest.approx(100 * np.mean(by_hand), abs=1e-3)


def test_noise_is_carried_as_the_slow_version_carries_it(encoder, folder: Path, monkeypatch):
    """Features without content: the result is that of the slow version, and far below the ceiling."""
    rng = np.random.default_rng(0)
    videos = open_davis(folder)
    drawn: list[np.ndarray] = []

    def tokens(model, pixels):
        grid = pixels.shape[-2] // 8, pixels.shape[-1] // 8
        drawn.append(rng.normal(size=(grid[0] * grid[1], 6)))
        return torch.from_numpy(drawn[-1])[None], grid

    monkeypatch.setattr(patches, "patch_tokens", tokens)
    rows = {row["model"]: row for row in evaluate_davis(encoder(), videos, SETTINGS)["rows"]}
    similarity, start = [], 0
    for video in videos.videos:
        truth = [read_map(path) for path in video.maps]
        grid = (2, 8)  # 24 x 100 -> 16 x 64
        first = carried.one_hot(truth[0], grid, (64, 16), int(truth[0].max())).numpy()
        how = carried.Propagation(7, 2, 5, 0.1)
        made = slow_propagation(np.stack(drawn[start : start + len(truth)]), first, grid, how)
        start += len(truth)
        maps = [truth[0], *(carried.to_frame(torch.from_numpy(m).float(), grid, 8, 100, 24) for m in made)]
        similarity += video_scores(maps, truth, int(truth[0].max()))[0].tolist()
    assert rows["tiny"]["scores"]["J"]["value"] == pytest.approx(100 * np.mean(similarity), abs=1e-3)
    assert rows["tiny"]["scores"]["J"]["value"] < rows["ceiling"]["scores"]["J"]["value"]


def test_the_published_statistics_and_the_cache(encoder, folder: Path, monkeypatch, tmp_path):
    asked = []
    real = patches.patch_tokens

    def tokens(model, pixels):
        asked.append(model.std)
        return real(model, pixels)

    monkeypatch.setattr(patches, "patch_tokens", tokens)
    kept = replace(SETTINGS, as_published=True, cache=str(tmp_path))
    one = evaluate_davis(encoder(), open_davis(folder.parent), kept)
    assert set(asked) == {protocol.PUBLISHED_STD}
    asked.clear()
    again = evaluate_davis(encoder(), open_davis(folder), kept)
    assert not asked
    assert [r["scores"] for r in one["rows"]] == [r["scores"] for r in again["rows"]]


def test_it_runs_from_the_command_line(encoder, folder: Path, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("odis.commands.functions.load", lambda source, **_: encoder(source))
    out = tmp_path / "d.json"
    arguments = ["--model", "a", "--test", str(folder), "--short", "16", "--workers", "0", "--out", str(out)]
    main(["evaluate", "protocol", "davis", *arguments])
    written = json.loads(out.read_text())
    assert [row["model"] for row in written["rows"]] == ["a", "chance", "ceiling"]
    assert written["test"]["videos"] == 2
    assert written["test"]["objects"] == 3
    assert set(written["rows"][0]["scores"]) == {"J&F", "J", "F"}
    told = capsys.readouterr()
    assert "61.8" in told.out
    assert "projected: " in told.err


def test_what_cannot_be_measured_is_one_line(encoder, folder: Path, tmp_path):
    with pytest.raises(DataError, match="DAVIS 2017 has"):
        open_davis(tmp_path)
    with pytest.raises(DataError, match="splits that are there: val"):
        open_davis(folder, "test-dev")
    (tmp_path / "DAVIS").symlink_to(folder)
    videos = open_davis(tmp_path)
    empty = tmp_path / "empty.png"
    Image.fromarray(np.zeros((24, 100), np.uint8)).save(empty)
    bare = replace(videos.videos[0], maps=(str(empty),) * 4)
    with pytest.raises(DataError, match="shows no object"):
        evaluate_davis(encoder(), replace(videos, videos=(bare,)), SETTINGS)
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "small.png")
    odd = replace(videos.videos[0], maps=(*videos.videos[0].maps[:3], str(tmp_path / "small.png")))
    with pytest.raises(DataError, match="of another size"):
        evaluate_davis(encoder(), replace(videos, videos=(odd,)), SETTINGS)
    Image.new("RGB", (9, 9)).save(tmp_path / "rgb.png")
    with pytest.raises(DataError, match="one value a pixel"):
        read_map(str(tmp_path / "rgb.png"))
    for change, line in (
        ({"top": 0}, "top 0"),
        ({"temperature": 0.0}, "temperature 0"),
        ({"max_train": 2}, "max-train: this protocol has no such"),
    ):
        with pytest.raises(OdisError, match=line):
            replace(SETTINGS, **change).check()
    with pytest.raises(OdisError, match="short 20 must be a multiple"):
        evaluate_davis(encoder(), videos, replace(SETTINGS, short=20))


@pytest.mark.parametrize("missing", ["frame", "video"])
def test_a_missing_frame_is_named(tmp_path, missing: str):
    for part, ending in (("JPEGImages", "jpg"), ("Annotations", "png")):
        (tmp_path / part / "480p" / "a").mkdir(parents=True)
        for t in range(3 if missing == "frame" else 2):
            if (part, t) != ("Annotations", 2):
                Image.new("L", (8, 8)).save(tmp_path / part / "480p" / "a" / f"{t:05}.{ending}")
    (tmp_path / "ImageSets" / "2017").mkdir(parents=True)
    (tmp_path / "ImageSets" / "2017" / "val.txt").write_text("a\n")
    line = "00002.png: no such file" if missing == "frame" else "has 2 frames"
    with pytest.raises(DataError, match=line):
        open_davis(tmp_path)

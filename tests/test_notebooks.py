"""The notebooks: run by Jupyter's kernel, in their order; as they are committed, small and without places."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
BOOKS = sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def committed(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.ipynb").read_text())
    return found


def said(book: Any) -> str:
    """All text that the cells of a notebook put out."""
    outputs = [output for cell in book["cells"] for output in cell.get("outputs", [])]
    return "\n".join("".join(one.get("text", one.get("data", {}).get("text/plain", ""))) for one in outputs)


def pictures(book: Any) -> int:
    outputs = [output for cell in book["cells"] for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert sorted(module.ORDER) == BOOKS
    folder = tmp_path_factory.mktemp("notebooks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")  # nothing is fetched
        found: dict[str, Any] = module.execute(folder)
    assert (folder / "runs" / "photos" / "model.safetensors").exists()
    assert (folder / "runs" / "shapes" / "compare.json").exists()
    return found


@pytest.mark.slow
def test_they_run(executed: dict[str, Any]) -> None:
    photographs, post, objects = (said(executed[n]) for n in ("photographs", "post-training", "objects"))
    assert "24 images to train on, 12 held out; classes: dots, stripes" in photographs
    assert re.search(r"\d+ % of 12 images, 95 %: \d+ to \d+ %", photographs)
    assert pictures(executed["photographs"]) == 2
    assert "train: 24 images, 72 objects of disc, square, triangle" in post
    assert re.search(r"object k-NN \(masked-attention\): [\d.]+ to [\d.]+, difference [+-][\d.]+ to", post)
    assert "runs/shapes" in post
    assert "objects: (3, 64)" in objects
    assert objects.count("cosine of the first object") == 3
    assert "36 objects; columns: image, row, object, box" in objects
    assert pictures(executed["objects"]) == 2


@pytest.mark.parametrize("name", BOOKS)
def test_what_is_committed_is_whole_and_small(name: str) -> None:
    """Executed from top to bottom, the outputs those of a run; no warning and no place in them."""
    path = FOLDER / f"{name}.ipynb"
    assert path.stat().st_size < 150_000
    book = committed(name)
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    kinds = {output["output_type"] for cell in code for output in cell["outputs"]}
    assert kinds <= {"stream", "display_data"}
    assert kinds, "run notebooks/execute.py"
    assert not any(output.get("name") == "stderr" for cell in code for output in cell["outputs"])
    assert not re.search(r"(^|[\s'\"(])/(home|tmp|root|work|usr)/", said(book))
    assert list(book["metadata"]["kernelspec"]) == ["display_name", "language", "name"]


@pytest.mark.parametrize("name", BOOKS)
def test_links_lead_somewhere_and_settings_are_left_in_one_place(name: str) -> None:
    cells = ["".join(cell["source"]) for cell in committed(name)["cells"]]
    for link in re.findall(r"\]\(([^)]+)\)", "\n".join(cells)):
        assert (FOLDER / link).exists(), link
    if name != "objects":
        assert sum("FIRST_TRY = {" in cell for cell in cells) == 1

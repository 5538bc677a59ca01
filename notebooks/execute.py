"""Runs the notebooks in their order, in one folder and one kernel, and writes them with their outputs.

    python notebooks/execute.py              # needs pip install nbclient ipykernel

`objects.ipynb` asks the network that `post-training.ipynb` leaves. Warnings name folders, and are left out.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).parent
ORDER = ("photographs", "post-training", "objects")


def execute(folder: Path, names: tuple[str, ...] = ORDER) -> dict[str, NotebookNode]:
    """The notebooks with their outputs.

    Args:
        folder: Where they run, and leave what they make.
        names: Which; all share one kernel, whose names are cleared between two.

    Raises:
        CellExecutionError: A cell failed; the message has its traceback.
    """
    books = {name: nbformat.read(HERE / f"{name}.ipynb", as_version=4) for name in names}
    clear = nbformat.v4.new_code_cell("%reset -f")
    together = nbformat.v4.new_notebook()
    for book in books.values():
        together.cells += [clear, *book.cells]
    place = {"metadata": {"path": str(folder)}}
    NotebookClient(together, timeout=120, kernel_name="python3", resources=place).execute()
    for book in books.values():
        code = [cell for cell in book.cells if cell.cell_type == "code"]
        for number, cell in enumerate(code, start=1):
            cell.execution_count = number
            cell.metadata = {}
            cell.outputs = [_plain(one, number) for one in cell.outputs if one.get("name") != "stderr"]
    return books


def _plain(output: NotebookNode, number: int) -> NotebookNode:
    if "execution_count" in output:
        output.execution_count = number
    if "text/html" in output.get("data", {}):  # lines of a log: their text alone
        output.data = {"text/plain": output.data["text/plain"]}
    return output


def main() -> None:
    """Run, and write in place."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        for name, book in execute(Path(folder)).items():
            nbformat.write(book, HERE / f"{name}.ipynb")
            print(HERE / f"{name}.ipynb")


if __name__ == "__main__":
    main()

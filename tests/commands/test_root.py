"""`--root` in every command that opens an index: moved images are found, and the error names the option."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from odis.cli import main, parse_options
from odis.commands import commands
from odis.commands.command import Command, Group
from odis.objects.index import ObjectIndex, write_index
from odis.objects.sources import FORMATS
from odis.types import ImageObjects, Object

WITHOUT = {"checkpoint", "slurm", "scenes", "demo", "completion"}  # they make what they open, or open nothing


@pytest.fixture
def moved(tmp_path: Path) -> Path:
    """Two indexes, i and j, of images in `old/i` and `old/j`, which are now in `new`."""
    for k, index in enumerate("ij"):
        (tmp_path / "old" / index).mkdir(parents=True)
        rows = []
        for name in (f"{k}.png", f"{k + 2}.png"):
            Image.new("RGB", (40, 32)).save(tmp_path / "old" / index / name)
            rows.append(ImageObjects(name, 40, 32, (Object((4, 4, 30, 28), label=0),)))
        path = tmp_path / f"{index}.parquet"
        write_index(path, rows, root=tmp_path / "old" / index, provenance="annotated", classes=["cat"])
    os.rename(tmp_path / "old", tmp_path / "new")
    return tmp_path / "i.parquet"


def leaves(group: Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Command]]:
    for name, one in group.commands.items():
        if isinstance(one, Group):
            yield from leaves(one, (*path, name))
        else:
            yield (*path, name), one


POSITIONAL = {
    "inspect": 1,
    "embed": 1,
    "export": 1,
    "report": 1,
    "explore": 1,
    "index": 1,
    "detect": 1,
    "discover": 1,
    "compare": 2,
}


def test_every_command_on_an_index_takes_it() -> None:
    for path, command in leaves(commands()):
        if path[0] in WITHOUT or path[-1] in (*FORMATS, "auto", "tiles"):
            continue
        count = POSITIONAL.get(path[-1], POSITIONAL.get(path[0], 0))
        words = [*("xy"[:count]), "--root", "R"]
        assert parse_options(list(path), command, words).root == "R", path


@pytest.mark.parametrize(
    "words",
    [
        "index stats I",
        "index filter I --min-size 1 --out O.parquet",
        "index sample I --images 1 --out O.parquet",
        "index split I --out O.parts --shares train=0.5,val=0.5",
        "index merge I J --out O.parquet",
        "index perturb I --jitter 0.1 --out O.parquet",
        "index export I --out O.json",
        "objects compare I I",
        "inspect I --out O.png --images 1 --recipe debug --loader.workers 0",
    ],
)
def test_moved_images_are_found(
    moved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    arguments = [
        {"I": str(moved), "J": str(tmp_path / "j.parquet")}.get(word, word.replace("O.", f"{tmp_path}/out."))
        for word in words.split()
    ]
    with pytest.raises(SystemExit):
        main(arguments)
    said = capsys.readouterr().err
    assert "which is no folder; give the folder they are in with --root" in said
    assert len(said.splitlines()) == 1
    main([*arguments, "--root", str(tmp_path / "new")])
    if (tmp_path / "out.parquet").exists() and "merge" not in words:
        assert ObjectIndex.open(tmp_path / "out.parquet").root == tmp_path / "new" / "i"


@pytest.mark.parametrize(
    "words", ["embed I --model M --out O.d", "evaluate knn --train I --test I --model M --out O.json"]
)
def test_with_a_model_that_is_not_there(
    moved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    """What is wrong is said in order: where the images are, then that there is no such model."""
    arguments = [{"I": str(moved), "M": str(tmp_path / "gone")}.get(word, word) for word in words.split()]
    arguments = [word.replace("O.", f"{tmp_path}/out.") for word in arguments]
    with pytest.raises(SystemExit):
        main(arguments)
    assert "give the folder they are in with --root" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*arguments, "--root", str(tmp_path / "new")])
    said = capsys.readouterr().err
    assert "--root" not in said
    assert "gone" in said

"""`data.yaml`: whatever exporters and people write is read, or refused in one line before anything grows."""

import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from odis.errors import DataError
from odis.objects.clean import Mended, Unread
from odis.objects.sources.yolo_yaml import DataYaml, find_yaml
from odis.types import Skipped


def load(folder: Path, content: str | bytes) -> DataYaml:
    path = folder / "data.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return DataYaml.load(path)


def classes(folder: Path, content: str | bytes) -> tuple[list[str], dict[int, int], list[Skipped]]:
    skipped: list[Skipped] = []
    found = load(folder, content).classes(skipped.append)
    assert found is not None
    return found.names, found.positions, skipped


@pytest.mark.parametrize(
    ("content", "names", "numbers"),
    [
        ("names: [a, b]", ["a", "b"], [0, 1]),
        ("names: {0: a, 1: b}", ["a", "b"], [0, 1]),
        ("names:\n  1: b\n  0: a\n", ["a", "b"], [0, 1]),
        ("names:\n  0: a\n  1: b\n  7: c\n", ["a", "b", "c"], [0, 1, 7]),
        ("names: {'0': a, '1': b}", ["a", "b"], [0, 1]),
        ("names: {a: 0, b: 3}", ["a", "b"], [0, 3]),
        ("names: [0, 1.50, no, ~, 2020-99-99]", ["0", "1.50", "no", "~", "2020-99-99"], [0, 1, 2, 3, 4]),
        ("names: ['a: b', ' ', \"c #1\"]", ["a: b", "1", "c #1"], [0, 1, 2]),
        ("names: [a, b, a]", ["a (0)", "b", "a (2)"], [0, 1, 2]),
        ("names: [a, a, a (1)]", ["a (0)", "a (1)'", "a (1)"], [0, 1, 2]),
        ("names: [a, b]\nnc: '2'", ["a", "b"], [0, 1]),
        ("names: [a, b]\nnc: 2.0", ["a", "b"], [0, 1]),
        ("names: {0: a, 4: b}\nnc: 5", ["a", "b"], [0, 4]),
        ("names: [a, b]\nnc: many", ["a", "b"], [0, 1]),
        ("nc: 3", ["0", "1", "2"], [0, 1, 2]),
        ("names:\nnc: '1'", ["0"], [0]),
        ("x: &x [a, b]\nnames: *x", ["a", "b"], [0, 1]),
        ("x: &x {names: [a]}\n<<: *x\n", ["a"], [0]),
    ],
)
def test_names_as_people_write_them(
    tmp_path: Path, content: str, names: list[str], numbers: list[int]
) -> None:
    found, positions, skipped = classes(tmp_path, content)
    assert found == names
    assert positions == {number: k for k, number in enumerate(numbers)}
    assert skipped == []


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "gbk"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_file_of_any_editor_is_read(tmp_path: Path, encoding: str, end: str) -> None:
    text = "# 数据\ntrain: images/train\nnames: [猫, 狗]\n".replace("\n", end)
    names, _, skipped = classes(tmp_path, text.encode(encoding))
    assert names == ["猫", "狗"]
    told = [Mended(f"{tmp_path}/data.yaml", "is not UTF-8; its names are read as GB 18030")]
    assert skipped == (told if encoding == "gbk" else [])


def test_a_comment_in_any_encoding_does_no_harm(tmp_path: Path) -> None:
    names, _, skipped = classes(tmp_path, "# données\nnames: [a] # créé\n".encode("latin-1"))
    assert (names, skipped) == (["a"], [])


def test_a_number_of_classes_that_is_not_that_of_the_names_is_told(tmp_path: Path) -> None:
    for number in (1, 80):
        names, _, (told,) = classes(tmp_path, f"names: [a, b]\nnc: {number}\n")
        assert names == ["a", "b"]
        assert told == Unread(f"{tmp_path}/data.yaml, nc", "nc that is not the number of names")


@pytest.mark.parametrize("name", ["obj.names", "my classes.txt"])
def test_names_may_be_in_a_file_beside_it(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("a\r\n\r\nb\r\n")
    assert classes(tmp_path, f"names: {name}\n")[0] == ["a", "b"]
    with pytest.raises(DataError, match=r"names is '\.\./x', must be a list"):
        classes(tmp_path, "names: ../x\n")


@pytest.mark.parametrize(
    ("text", "split", "entry"),
    [
        ("val: a\nvalid: b", "val", "a"),
        ("valid: b", "val", "b"),
        ("val: a", "valid", "a"),
        ("validation: c", "val", "c"),
        ("test: null", "test", None),
        ("test: ~", "test", None),
        ("test:", "test", None),
        ("test: ''", "test", None),
        ("test: []", "test", None),
        ("minival: [a, b]", "minival", ["a", "b"]),
        ("names: [a]", "names", None),
        ("path: a", "path", None),
    ],
)
def test_entries_of_splits(tmp_path: Path, text: str, split: str, entry: Any) -> None:
    assert load(tmp_path, text).split(split) == entry


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "must be a mapping"),
        ("[train, val]", "must be a mapping"),
        ("names: [", "is not YAML that can be read (line 1: "),
        ("a: 1\n---\nb: 1\n", "is not YAML that can be read (line 2: "),
        (b"names: [caf\xe9]", "is not UTF-8; save it as UTF-8"),
        ("names: !!python/object/apply:os.system [ls]", "has the tag 'tag:yaml.org,2002:python/obj"),
        ("[" * 100_000, "has more than 20 lists or mappings in each other"),
        ("a: &a [*a]\n", "has an alias (*name) within what it stands for"),
        ("train: a\ntrain: b\n", "has a key twice"),
        ("names: {0: a, 0: b}", "has a key twice"),
        ("names: {0: a, 00: b}", "has a key twice"),
        ("names: {no: a, 1: b}", "the keys of names are ['no', '1'], must be whole numbers from 0"),
        ("names: {-1: a}", "must be whole numbers from 0"),
        ("names: a, b", "names is 'a, b', must be a list, or a mapping from 0, 1, 2, ... to names; write "
         "names: [a, b]"),
        ("names: person", "names is 'person', must be a list"),
        ("names: [[a]]", "the name of class 0 is ['a'], which is no text"),
        ("kpt_shape: [17, 3]\n", "is for poses"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_in_one_line(tmp_path: Path, content: str | bytes, text: str) -> None:
    with pytest.raises(DataError) as error:
        load(tmp_path, content).classes(lambda skipped: None)
    assert str(error.value).startswith(f"{tmp_path}/data.yaml: ")
    assert text in str(error.value)
    assert "\n" not in str(error.value)


def test_aliases_may_not_grow_without_end(tmp_path: Path) -> None:
    levels = "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 15))
    start = time.process_time()
    with pytest.raises(DataError, match="has more than 100,000 values when its aliases"):
        load(tmp_path, f"a0: &a0 [x]\n{levels}names: [a]\n")
    merges = "".join(f"a{k}: &a{k} {{<<: [{', '.join([f'*a{k - 1}'] * 9)}]}}\n" for k in range(1, 15))
    with pytest.raises(DataError, match="has more than 100,000 values when its aliases"):
        load(tmp_path, f"a0: &a0 {{x: y}}\n{merges}names: [a]\n")
    assert time.process_time() - start < 5


def test_the_file_is_found(tmp_path: Path) -> None:
    assert find_yaml(tmp_path) is None
    (tmp_path / "hyp.yaml").write_text("lr: 1\n")
    (tmp_path / "some.YML").write_text("train: images\nnames: [a]\n")
    assert find_yaml(tmp_path) == tmp_path / "some.YML"
    (tmp_path / "other.yaml").write_text("names: [a]\n")
    with pytest.raises(DataError, match=r"no data\.yaml, but other\.yaml, some\.YML; --annotations other"):
        find_yaml(tmp_path)
    (tmp_path / "data.yml").write_text("names: [a]\n")
    assert find_yaml(tmp_path) == tmp_path / "data.yml"
    (tmp_path / "data.yaml").write_text("names: [a]\n")
    assert find_yaml(tmp_path) == tmp_path / "data.yaml"


NAME = st.text(min_size=1, max_size=8).filter(lambda name: name.strip() == name and name.isprintable())


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.integers(0, 10**8), NAME, min_size=1, max_size=6),
    st.booleans(),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_names_that_are_written_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, named: dict[int, str], flow: bool, encoding: str
) -> None:
    folder = tmp_path_factory.mktemp("names")
    text = yaml.safe_dump({"names": named, "train": "x"}, allow_unicode=True, default_flow_style=flow)
    names, positions, skipped = classes(folder, text.encode(encoding))
    assert skipped == []
    for number, name in named.items():
        shown = names[positions[number]]
        assert shown == name if list(named.values()).count(name) == 1 else shown.startswith(f"{name} (")
    assert len(set(names)) == len(names) == len(named)

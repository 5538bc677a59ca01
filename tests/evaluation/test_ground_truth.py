"""Ground-truth files of every pickle protocol and kind, broken and hostile ones."""

import contextlib
import functools
import operator
import os
import pickle
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odis.errors import DataError
from odis.evaluation import ground_truth, plain_pickle
from odis.evaluation.ground_truth import load_ground_truth
from odis.evaluation.landmark_scores import Landmarks, landmark_scores


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("landmarks") / "gnd_test.pkl"


def load(file: Path, data: bytes) -> Landmarks:
    file.write_bytes(data)
    return load_ground_truth(file)


def refused(file: Path, data: bytes) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(DataError) as caught:
        load(file, data)
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    assert message.isprintable()
    assert len(message) < len(str(file)) + 300
    return message[len(f"{file}: ") :]


def content(make: Any = list, box: Any = list) -> dict[str, Any]:
    """What a published file holds, small; `make` turns lists of indices into what is to be written, `box`
    those of numbers.
    """
    return {
        "imlist": [f"oxford_{i:06d}" for i in range(300)],
        "qimlist": ["all_souls_000013", "défense_000605"],
        "gnd": [
            {
                "bbx": box([136.5, 34.0, 648.5, 955.25]),
                "easy": make([7, 3, 99]),
                "hard": make([100]),
                "junk": make([]),
            },
            {
                "bbx": box([1.0, 2.0, 3.0, 4.0]),
                "easy": make([]),
                "hard": make([1, 0]),
                "junk": make([5, 120]),
            },
        ],
    }


def check(truth: Landmarks) -> None:
    assert truth.images == [f"oxford_{i:06d}" for i in range(300)]
    assert [q.name for q in truth.queries] == ["all_souls_000013", "défense_000605"]
    assert [q.box for q in truth.queries] == [(136.5, 34.0, 648.5, 955.25), (1.0, 2.0, 3.0, 4.0)]
    lists = [[getattr(q, name) for name in ("easy", "hard", "junk")] for q in truth.queries]
    assert [[one.tolist() for one in row] for row in lists] == [
        [[7, 3, 99], [100], []],
        [[], [1, 0], [5, 120]],
    ]
    assert all(one.dtype == np.int64 and one.dtype.isnative for row in lists for one in row)
    assert landmark_scores(np.zeros((2, 300)), truth)["easy"]["p@1"].shape == (2,)


def array(dtype: str) -> Any:
    return lambda values: np.array(values, dtype=dtype)


KINDS = {
    "lists": (list, list),
    "tuples": (tuple, tuple),
    **{d: (array(d), array("<f8")) for d in ("u1", "i2", "<u2", ">i4", "<i8", ">u8")},
    "empty float64": (lambda values: np.array(values), array(">f4")),
    "numpy numbers": (
        lambda values: [np.int32(v) for v in values],
        lambda values: [np.float64(v) for v in values],
    ),
    "every second": (lambda values: np.repeat(values, 2).astype(int)[::2], list),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", KINDS)
def test_every_protocol_and_kind_of_list_is_read(file: Path, kind: str, protocol: int) -> None:
    check(load(file, pickle.dumps(content(*KINDS[kind]), protocol)))


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_decoded_in_both_orders(protocol: int, order: Any) -> None:
    values = np.arange(6, dtype=">i2").reshape(2, 3).copy(order=order)
    assert plain_pickle.unpickle(pickle.dumps(values, protocol)).values.tolist() == values.tolist()


def python2(value: Any) -> bytes:
    """The value as Python 2 and numpy 1 wrote it in protocol 2: text as byte strings, arrays' data too, old
    module names.
    """
    if isinstance(value, dict):
        return b"}(" + b"".join(python2(k) + python2(v) for k, v in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(python2, value)) + b"e"
    if isinstance(value, str):
        raw = value.encode("latin1")
        return b"U" + bytes([len(raw)]) + raw
    if isinstance(value, np.ndarray):
        code = value.dtype.str[1:].encode()
        dtype = (
            b"cnumpy\ndtype\n(U\x02"
            + code
            + b"K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        )
        start = (
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR(K\x01J"
            + struct.pack("<i", len(value))
        )
        return start + b"\x85" + dtype + b"\x89T" + struct.pack("<i", value.nbytes) + value.tobytes() + b"tb"
    return b"G" + struct.pack(">d", value) if isinstance(value, float) else b"J" + struct.pack("<i", value)


@pytest.mark.parametrize("make", [list, array("<i8"), array("<u2")])
def test_files_of_python_2_are_read(file: Path, make: Any) -> None:
    data = b"\x80\x02" + python2(content(make, list if make is list else array("<f8"))) + b"."
    check(load(file, data))
    peer = pickle.loads(data, encoding="latin1")  # the stream is one that numpy itself reads
    assert [int(i) for i in peer["gnd"][0]["easy"]] == [7, 3, 99]


class Call:
    """Pickles as a call of a function, and a state for what it returns."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.call = (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.call


RECONSTRUCT = np.array([1]).__reduce__()[0]
HOSTILE = {
    "system": lambda marker: Call(os.system, f"touch {marker}"),
    "eval": lambda marker: Call(eval, f"open({str(marker)!r}, 'w').close()"),
    "in numpy's arguments": lambda marker: Call(RECONSTRUCT, Call(os.system, f"touch {marker}"), (0,), b"b"),
    "in an array of objects": lambda marker: np.array([Call(os.mkdir, str(marker))], dtype=object),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", HOSTILE)
def test_no_code_in_a_file_runs(file: Path, tmp_path: Path, kind: str, protocol: int) -> None:
    marker = tmp_path / "ran"
    bad = HOSTILE[kind](marker)
    for value in (bad, content() | {"imlist": bad}, content() | {"extra": [bad]}):
        data = pickle.dumps(value, protocol)
        assert re.search(
            r"asks to load '(posix|nt|__builtin__|builtins)\.\w+', .* not loaded|array of type 'O8'",
            refused(file, data),
        )
        assert not marker.exists()
    with contextlib.suppress(TypeError):
        pickle.loads(data)  # elsewhere the file does its harm
    assert marker.exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"(S'true'\nios\nsystem\n.", "asks to load 'os.system'"),
        (b"(cos\nsystem\nS'true'\no.", "asks to load 'os.system'"),
        (b"cbuiltins\nobject\n)\x81.", "asks to load 'builtins.object'"),
        (b"cnumpy\nndarray.tofile\n.", "asks to load 'numpy.ndarray.tofile'"),
        (b"cnumpy\ndtype\n)\x81.", "not a ground truth"),  # a stand-in is no type
        (b"c_codecs\nencode\n}U\x05_makeNsb.", "tries to change a function"),
        (b"c_codecs\nencode\nU\x01xU\x03hex\x86R.", "encodes something"),
        (b"Pnumber\n.", "an object outside"),
        (b"\x82\x01.", "opcode EXT1"),
        (b"\x8f.", "opcode EMPTY_SET"),
        (b"](\x86.", "an opcode takes more than there is"),
        (b"]r\x80\x96\x98\x00.", "memo that is out of range"),
        (b"]p10000000\n.", "memo that is out of range"),
        (b"B\x00\x00\x10\x00" + bytes(1 << 20) + b"cnumpy\ndtype\n" + b")R" * 300 + b".", "too many bytes"),
        (b"})" + b"\x85" * 20 + b"Ns.", "nests tuples"),  # hashing deep tuples ends the process
        (b"})" + b"(u\x85" * 20 + b"Ns.", "nests tuples"),  # ... past opcodes that leave what they take
        (b"})" + b"Nb\x85" * 20 + b"Ns.", "nests tuples"),
        (b"})" + b"q\x00(Nh\x00t" * 20 + b"Ns.", "nests tuples"),
        (
            b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fab.",
            "not a ground truth, or not whole",
        ),  # a length of 2 ** 63 - 1
        (b"\x80\x63N.", "not a ground truth, or not whole"),  # protocol 99
        (b"imlist,qimlist\n", "not a ground truth, or not whole"),
    ],
)
def test_pickles_that_no_ground_truth_is(file: Path, data: bytes, message: str) -> None:
    assert re.search(message, refused(file, data))


def changed(place: str, value: Any) -> dict[str, Any]:
    """`content` with the value at a place such as `gnd.0.easy` exchanged, or taken out if it is ...."""
    top: Any = content()
    *way, last = [int(step) if step.isdigit() else step for step in place.split(".")]
    inner = functools.reduce(operator.getitem, way, top)
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return top


def with_state(array_: Any, **change: Any) -> Any:
    """An array's pickle with a part of its state (version, shape, dtype, fortran, data) exchanged."""
    function, arguments, state = array_.__reduce__()
    parts = dict(zip(("version", "shape", "dtype", "fortran", "data"), state)) | change
    return Call(function, *arguments, state=tuple(parts.values()))


@pytest.mark.parametrize(
    "bad",
    [
        *(np.array([7], dtype=d) for d in ("?", "c8", "S3", "U3", "O", "M8[s]", "longdouble", [("a", "i4")])),
        np.array([[7]]),
        np.array([7.0]),
        with_state(np.array([7]), shape=(2,)),
        with_state(np.array([7]), shape=(-1,)),
        with_state(np.array([7]), shape=[1]),
        with_state(np.array([7]), shape=(1 << 70, 0)),
        with_state(np.array([7]), data=b"1234567"),
        with_state(np.array([7]), data="\u1234" * 8),
        with_state(np.array([7]), data=8),
        with_state(np.array([7]), dtype="i8"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_arrays_that_are_not_plain_numbers_are_refused(file: Path, bad: Any, protocol: int) -> None:
    refused(file, pickle.dumps(changed("gnd.0.easy", bad), protocol))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("imlist", ..., "the file has no imlist"),
        ("gnd.1.junk", ..., "gnd 1 has no junk"),
        ("gnd", [], "gnd has 0 entries for the 2 names of qimlist"),
        ("gnd", {}, "gnd is of type dict, must be a list"),
        ("gnd.1", [1], "gnd 1 is of type list, must be a dict of bbx, easy, hard, junk"),
        ("imlist", [], "imlist is empty"),
        ("imlist", "abc", "imlist is of type str"),
        ("imlist", np.arange(3), "imlist is a numpy array, must be a list of names"),
        ("imlist.4", 7, "imlist 4 is of type int"),
        ("qimlist.1", "../secret", "qimlist 1 is '../secret', must be the plain name"),
        ("imlist.4", "a\nb", "imlist 4"),
        ("gnd.0.easy", [300], "gnd 0, easy holds an index that is not from 0 to 299"),
        ("gnd.0.junk", np.array([-1]), "gnd 0, junk holds an index that is not from 0 to 299"),
        ("gnd.0.hard", np.array([2**64 - 1], dtype=np.uint64), "gnd 0, hard holds an index"),
        ("gnd.0.hard", [10**5000], "gnd 0, hard holds something that is not int, or is out of range"),
        ("gnd.0.hard", [True], "gnd 0, hard holds something that is not int"),
        ("gnd.0.hard", [1.0], "gnd 0, hard holds something that is not int"),
        ("gnd.0.hard", [3], "gnd 0: image 3 is there twice"),
        ("gnd.0.junk", [200, 200], "gnd 0: image 200 is there twice"),
        ("gnd.1.bbx", [1.0, 2.0, 3.0], "gnd 1, bbx must be 4 finite numbers"),
        ("gnd.1.bbx", np.array([1, 2, 3, np.inf]), "gnd 1, bbx must be 4 finite numbers"),
        ("gnd.1.bbx", [1, 2, 3, float("nan")], "gnd 1, bbx holds something that is not int or float"),
        ("gnd.1.bbx", [3, 2, 1, 4], "gnd 1, bbx is empty"),
    ],
)
def test_contents_are_checked(file: Path, place: str, value: Any, message: str) -> None:
    assert message in refused(file, pickle.dumps(changed(place, value), 4))


def test_other_files(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "the file is of type list" in refused(file, pickle.dumps([]))
    for path, reason in ((tmp_path / "none.pkl", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(DataError, match=rf"^{re.escape(str(path))}: cannot be read \({reason}"):
            load_ground_truth(path)
    monkeypatch.setattr(ground_truth, "_MOST_INDICES", 7)
    assert "gnd has more than 7 indices" in refused(file, pickle.dumps(content()))
    monkeypatch.setattr(plain_pickle, "MOST_BYTES", 1 << 20)
    assert "has more than 1 MiB" in refused(file, bytes((1 << 20) + 1))


WHOLE = [
    pickle.dumps(content(*KINDS[kind]), protocol)
    for kind in ("lists", ">i4", "numpy numbers")
    for protocol in range(6)
]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(WHOLE), st.floats(0, 1, exclude_max=True))
def test_a_file_cut_short_is_refused(file: Path, whole: bytes, where: float) -> None:
    refused(file, whole[: int(where * len(whole))])


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(WHOLE), st.floats(0, 1, exclude_max=True), st.integers(0, 255))
def test_a_file_with_one_wrong_byte_is_read_or_refused(
    file: Path, whole: bytes, where: float, byte: int
) -> None:
    damaged = bytearray(whole)
    damaged[-1 - int(where * min(len(whole), 1500))] = byte  # the last part holds the queries
    file.write_bytes(damaged)
    try:
        load_ground_truth(file)
    except DataError:
        refused(file, bytes(damaged))


OPCODES = st.lists(
    st.sampled_from(sorted(b"()]}NtdelsuabR.0q\x00h\x85\x86\x87\x94K\x93Uc\n")), max_size=60
).map(bytes)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), OPCODES))
def test_random_bytes_are_refused(file: Path, data: bytes) -> None:
    refused(file, data)
    refused(file, b"\x80\x04" + data + b".")

"""What `read_header` says of a file is what Pillow says of it; where Pillow refuses a file, it says
nothing.
"""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from odis.errors import DataError
from odis.objects import headers, images
from odis.objects.headers import read_header

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's, about damage
hypothesis_settings = settings(
    max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)  # 8 wide, 6 high


def pillow(path: Path) -> tuple[int, int, int] | str:
    """The same from Pillow, or its refusal."""
    try:
        with images.opened(path) as image:
            return (*image.size, images.orientation_of(image))
    except DataError as error:
        return str(error)


def agrees(path: Path, content: bytes) -> bool:
    """Whether there was an answer; it must be Pillow's."""
    path.write_bytes(content)
    found = read_header(path)
    assert found is None or found == pillow(path)
    return found is not None


def saved(suffix: str, mode: str = "RGB", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(buffer, suffix, **options)
    return buffer.getvalue()


def exif(
    order: str,
    entries: list[tuple[int, int, int, int]],
    *,
    start: int = 8,
    end: bytes = b"\0\0\0\0",
    rest: bytes = b"",
) -> bytes:
    """An EXIF block: entries are tag, type, count, and the value or its place."""
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}L", start)
    packed = [
        struct.pack(f"{order}HHL", *entry[:3])
        + (struct.pack(f"{order}HH", entry[3], 0) if entry[1] == 3 else struct.pack(f"{order}L", entry[3]))
        for entry in entries
    ]
    return (
        head
        + bytes(max(0, start - 8))
        + struct.pack(f"{order}H", len(entries))
        + b"".join(packed)
        + end
        + rest
    )


def segment(marker: int, content: bytes, fill: int = 0) -> bytes:
    return b"\xff" * fill + bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


TABLES = segment(0xDB, b"\0" + bytes(range(1, 65)))
FRAME = segment(0xC0, struct.pack(">BHHB", 8, 6, 8, 1) + b"\1\x11\0")
SCAN = segment(0xDA, b"\1\1\0\0\x3f\0") + b"\x12\x34\xff\xd9"


def jpeg(*segments: bytes) -> bytes:
    return b"\xff\xd8" + b"".join(segments) + TABLES + FRAME + SCAN


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True},
        {"optimize": True},
        {"restart_marker_rows": 1},
        {"comment": b"c" * 60_000},
        {"icc_profile": bytes(200_000)},
    ],
)
def test_usual_jpeg_files_are_answered(tmp_path: Path, mode: str, options: dict) -> None:
    assert agrees(tmp_path / "a.jpg", saved("JPEG", mode, **options))
    assert read_header(tmp_path / "a.jpg") == (8, 6, 1)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("value", [*range(10), 65535])
def test_every_orientation_in_both_byte_orders(tmp_path: Path, order: str, value: int) -> None:
    entries = [(0x010F, 2, 9, 50), (0x0112, 3, 1, value), (0x011A, 5, 1, 60), (0x0128, 3, 1, 2)]
    block = exif(order, entries, rest=bytes(40))
    assert agrees(tmp_path / "a.jpg", jpeg(segment(0xE1, b"Exif\0\0" + block)))
    assert read_header(tmp_path / "a.jpg") == (8, 6, value if 1 <= value <= 8 else 1)
    width, height = (6, 8) if 5 <= value <= 8 else (8, 6)
    assert images.image_size(tmp_path / "a.jpg") == (width, height)
    assert images.header_sizes(tmp_path / "a.jpg") == ([(6, 8), (8, 6)] if 5 <= value <= 8 else [(8, 6)])


def test_the_frame_of_a_preview_is_not_taken_for_that_of_the_image(tmp_path: Path) -> None:
    preview = jpeg(segment(0xC0, struct.pack(">BHHB", 8, 77, 99, 1) + b"\1\x11\0"))
    content = jpeg(
        segment(0xE1, b"Exif\0\0" + exif("<", [(0x0112, 3, 1, 6)], rest=preview)), segment(0xEF, preview)
    )
    assert agrees(tmp_path / "a.jpg", content)
    assert read_header(tmp_path / "a.jpg") == (8, 6, 6)


@pytest.mark.parametrize(
    ("parts", "answered"),
    [
        ([segment(0xFE, b"x", fill=3)], True),
        ([segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>")], True),
        ([segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>')], False),
        ([segment(0xE1, b"Exif\0\0")], False),
        ([segment(0xE1, b"Exif\0\0" + exif("<", [(0x0112, 3, 1, 3)]))] * 2, False),
        ([segment(0xE1, b"Exif\0\0" + exif("<", [(0x0112, 3, 1, 3), (0x0112, 3, 1, 6)]))], False),
        ([segment(0xE1, b"Exif\0\0" + exif("<", [(0x0112, 4, 1, 6)]))], False),
        (
            [segment(0xE1, b"Exif\0\0" + exif("<", [(0x011A, 2, 1, 0), (0x0128, 3, 1, 2)]))],
            False,
        ),  # Pillow refuses the file
        (
            [segment(0xE1, b"Exif\0\0" + exif("<", [(0x010F, 2, 9, 900), (0x0112, 3, 1, 6)]))],
            False,
        ),  # Pillow stops before it
        ([segment(0xE2, b"MPF\0" + exif("<", [(0xB001, 4, 1, 2)]))], False),
        ([segment(0xE2, b"ICC_PROFILE\0")], False),
        ([segment(0xED, b"Photoshop 3.0\x008BIM\4\4")], False),
        ([segment(0xED, b"Photoshop 3.0\x008BIM\4\4\0\0\0\0\0\0")], True),
        ([segment(0xE0, b"JFIF\0")], False),
        ([segment(0xEE, b"Adobe")], False),
        ([segment(0xDB, b"\0" * 64)], False),
        ([b"\xff\xd0"], False),
        ([b"\0\0"], False),
        ([FRAME], False),
        ([segment(0xC3, FRAME[4:])], False),
        ([segment(0xFE, b"")[:-1] + b"\1"], False),
    ],
)
def test_what_is_unusual_is_left_to_pillow(tmp_path: Path, parts: list[bytes], answered: bool) -> None:
    assert agrees(tmp_path / "a.jpg", jpeg(*parts)) == answered


def test_a_file_cut_anywhere_is_never_answered_before_its_image_data(tmp_path: Path) -> None:
    content = saved("JPEG", exif=exif(">", [(0x0112, 3, 1, 8)]))
    behind = content.index(b"\xff\xda") + 2
    behind += struct.unpack(">H", content[behind : behind + 2])[0]
    answered = [agrees(tmp_path / "a.jpg", content[:n]) for n in range(len(content))]
    assert answered == [n >= behind for n in range(len(content))]


JFIF, XMP, PHOTOSHOP = b"JFIF\0", b"http://ns.adobe.com/xap/1.0/\0", b"Photoshop 3.0\0"
known = [
    b"",
    JFIF,
    JFIF + b"\1\1\0\0\1\0\1",
    b"Exif\0\0",
    XMP,
    b'tiff:Orientation="5"',
    b"ICC_PROFILE\0",
    PHOTOSHOP,
    b"8BIM\4\4",
]
others = [
    b"8BIM\3\xed\0\0\0\0\0\x10",
    b"Adobe",
    b"MPF\0",
    b"FPXR\0",
    b"\0",
    b"\xff",
    b"\1\1",
    b"hdrgm:Version=",
]
applications = st.sampled_from([*known, *others])
values = st.integers(0, 90) | st.sampled_from([0xFFFF, 2**31, 2**32 - 1])
tags = st.sampled_from([0x0112, 0x0112, 0x011A, 0x0128, 0x010F, 0x8769, 0xB001, 0xB002])
entries = st.lists(
    st.tuples(tags, st.integers(0, 14), st.sampled_from([0, 1, 1, 1, 2, 9, 2**31]), values), max_size=5
)
entries |= st.lists(
    st.sampled_from(
        [(0x0112, 3, 1, 6), (0x0112, 3, 1, 3), (0x010F, 2, 5, 40), (0x011A, 5, 1, 40), (0x0128, 3, 1, 3)]
    ),
    max_size=5,
)
directories = st.builds(
    exif,
    st.sampled_from("<>"),
    entries.map(
        lambda drawn: [(*entry[:3], entry[3] & 0xFFFF) if entry[1] == 3 else entry for entry in drawn]
    ),
    start=st.sampled_from([8, 8, 8, 0, 9, 14, 500]),
    end=st.sampled_from([bytes(4), b"", b"\0\0"]),
    rest=st.binary(max_size=60),
)
contents = (
    st.lists(applications, max_size=4).map(b"".join)
    | directories.map(lambda block: b"Exif\0\0" + block)
    | st.binary(max_size=9)
    | st.sampled_from(
        [TABLES[4:], FRAME[4:], SCAN[4:-4], TABLES[4:] * 2, b"\x10" + bytes(128), bytes(15_000)]
    )
)
markers = st.sampled_from(
    [0xE0, 0xE1, 0xE1, 0xE2, 0xED, 0xEE, 0xE5, 0xFE, 0xDB, 0xC4, 0xC0, 0xC2, 0xDD, 0xDA]
) | st.integers(0, 255)
segments = st.builds(segment, markers, contents, st.sampled_from([0, 0, 1, 3]))


@hypothesis_settings
@given(st.lists(segments, max_size=4).map(lambda parts: jpeg(*parts)), st.data())
def test_any_segments_damaged_or_not(tmp_path: Path, content: bytes, data: st.DataObject) -> None:
    changed = bytearray(content)
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=2)):
        changed[at] = data.draw(st.integers(0, 255) | st.sampled_from([0, 0xFF]))
    agrees(tmp_path / "a.jpg", bytes(changed))


@hypothesis_settings
@given(st.sampled_from(["plain", "exif", "png", "palette"]), st.data())
def test_any_byte_changed_in_files_as_they_are_saved(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    options = (
        {"exif": exif("<", [(0x0112, 3, 1, 6), (0x011A, 5, 1, 8), (0x0128, 3, 1, 2)])}
        if kind == "exif"
        else {}
    )
    content = bytearray(
        saved("JPEG", **options)
        if kind in ("plain", "exif")
        else saved("PNG", "P" if kind == "palette" else "RGB")
    )
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] = data.draw(st.integers(0, 255))
    agrees(tmp_path / "a.jpg", bytes(content))


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">L", len(content)) + name + content + struct.pack(">L", zlib.crc32(name + content))


def png(*chunks: bytes, head: tuple[int, ...] = (8, 6, 8, 2, 0, 0, 0)) -> bytes:
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">LLBBBBB", *head))
        + b"".join(chunks)
        + chunk(b"IDAT", b"1234")
    )


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_png_of_every_mode_is_answered(tmp_path: Path, mode: str) -> None:
    assert agrees(tmp_path / "a.png", saved("PNG", mode, dpi=(72, 72)))
    assert read_header(tmp_path / "a.png") == (8, 6, 1)


def test_png_with_exif_is_left_to_pillow(tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    text = PngImagePlugin.PngInfo()
    text.add_text("exif", "Exif\0\0")
    for options in ({"exif": tags}, {"pnginfo": text}):
        assert not agrees(tmp_path / "a.png", saved("PNG", **options))
    assert images.header_sizes(tmp_path / "a.png") == [(8, 6)]


names = st.sampled_from(
    [
        b"gAMA",
        b"cHRM",
        b"sRGB",
        b"pHYs",
        b"PLTE",
        b"tRNS",
        b"bKGD",
        b"tEXt",
        b"zTXt",
        b"iCCP",
        b"eXIf",
        b"IHDR",
        b"acTL",
    ]
)
lengths = st.sampled_from([0, 1, 3, 4, 9, 13, 32, 33])
heads = st.tuples(
    *[st.sampled_from([8, 8, 8, 0, 2**31, 20_000])] * 2,
    st.sampled_from([1, 2, 4, 8, 8, 8, 16, 5]),
    st.sampled_from([0, 2, 2, 2, 3, 4, 5, 6]),
    *[st.sampled_from([0, 0, 0, 1])] * 3,
)


@hypothesis_settings
@given(st.lists(st.tuples(names, lengths, st.sampled_from([0, 1, 65])), max_size=3), heads, st.data())
def test_any_chunks_damaged_or_not(
    tmp_path: Path, drawn: list, head: tuple[int, ...], data: st.DataObject
) -> None:
    content = bytearray(
        png(*(chunk(name, bytes([fill]) * length) for name, length, fill in drawn), head=head)
    )
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=1)):
        content[at] = data.draw(st.integers(0, 255))
    agrees(
        tmp_path / "a.png", bytes(content[: data.draw(st.integers(9, len(content)) | st.just(len(content)))])
    )


@pytest.mark.parametrize("size", [(0, 6), (8, 0), (20_000, 20_000), (9_000, 10_000)])
def test_sizes_that_pillow_refuses_or_warns_of_are_left_to_it(tmp_path: Path, size: tuple[int, int]) -> None:
    assert not agrees(tmp_path / "a.png", png(head=(*size, 8, 2, 0, 0, 0)))
    frame = segment(0xC0, struct.pack(">BHHB", 8, *size, 1) + b"\1\x11\0")
    assert not agrees(tmp_path / "a.jpg", b"\xff\xd8" + TABLES + frame + SCAN)


@pytest.mark.parametrize("suffix", ["GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_other_formats_are_left_to_pillow(tmp_path: Path, suffix: str) -> None:
    assert not agrees(tmp_path / "a.jpg", saved(suffix))


def test_what_is_no_file_to_be_read_is_left_to_pillow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "empty.jpg").touch()
    for name in ("missing.jpg", "pipe.jpg", "empty.jpg", ".", "nul\0.jpg", "half\udc80.jpg"):
        assert read_header(tmp_path / name) is None
    (tmp_path / "a.jpg").write_bytes(jpeg(segment(0xFE, bytes(60_000))))
    assert read_header(tmp_path / "a.jpg") == (8, 6, 1)
    monkeypatch.setattr(headers, "_MOST", 50_000)
    assert read_header(tmp_path / "a.jpg") is None


def test_no_file_stays_open(tmp_path: Path) -> None:
    for name, content in (("a.jpg", jpeg()), ("b.jpg", jpeg()[:30]), ("c.png", png()), ("d.gif", b"GIF")):
        (tmp_path / name).write_bytes(content)
    before = len(os.listdir("/proc/self/fd"))
    for name in ("a.jpg", "b.jpg", "c.png", "d.gif", "."):
        read_header(tmp_path / name)
    assert len(os.listdir("/proc/self/fd")) == before

"""What goes wrong with a data set: one file of it is changed, removed or replaced, by a generator's draws."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from odis.machine.checksums import seal_safetensors, verify_safetensors

Rng = np.random.Generator

ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2, 255, 10**9, 2**31, 2**63, 10**30, -(10**30), 0.5, -0.0, 1.01, 96.0, 1e-30,
    1e308, float("nan"), float("inf"), "", "0", "1", "-1", "96", "1.0", "true", "false", "null", "nan", "x",
    "é", "e\u0301", "\ud800", "a\nb", "\x1b[31m", "\0", "../x", "/etc/passwd", "C:\\x\\a.jpg", "images/a.jpg",
    "a b#%20.jpg",
    "http://x/a.jpg", "x" * 5000, [], [[]], [0], [1, 2, 3, 4], [0.1, 0.2, 0.3, 0.4],
    [1, 2, 3, 4, 5], [[1, 2]], {}, {"a": 1},
]  # fmt: skip
"""Values that stand in files where others should."""

_ODD_YAML = [
    "a: &a [*a]\n", "? [1]: 2\n", "x: !!python/object:os.system {}\n", "\tnames: 1\n", "names: yes\n",
    "---\na: 1\n", "nc: 999999999\n", "names: {5: x, 5: y}\n", "train: [[[]]]\n", "path: ~\n",
    "names: !!binary aGVsbG8=\n",
]  # fmt: skip

_ODD_XML = [
    '<?xml version="1.0" encoding="gbk"?>', '<?xml version="1.0" encoding="utf-16"?>', '<?xml version="9"?>',
    '<?xml version="1.0" encoding="no-such"?>', '<!DOCTYPE a [<!ENTITY b "c"><!ENTITY d "&b;&b;">]>', "<a>",
    "<!-- ", "\n\n",
]  # fmt: skip

_ENDINGS = [".png", ".jpg", ".JPG", ".jfif", ".tiff", ".xml", ".json", ".txt", ".csv", ""]

_IMAGES = {".jpg", ".jpeg", ".png", ".gif", ".webp", ".tif", ".bmp"}


def pick(rng: Rng, choices: Any) -> Any:
    """One of some choices."""
    return choices[int(rng.integers(len(choices)))]


def mutate(root: Path, rng: Rng) -> str:
    """Change one thing in a data set; what was changed."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    if not files:
        return "nothing left to change"
    annotations = [path for path in files if path.suffix.lower() not in _IMAGES or "Segment" in str(path)]
    among = annotations if annotations and rng.random() < 0.75 else files
    path = pick(rng, among)
    suffix = path.suffix.lower()
    of_kind: list[Callable[[Path, Rng], str]] = (
        _OF_IMAGE if suffix in _IMAGES else _OF_TEXT.get(suffix, [tokens, lines, encoding])
    )
    change = pick(rng, of_kind) if rng.random() < 0.7 else pick(rng, _OF_ANY)
    try:
        done = change(path, rng)
    except Exception as error:  # an earlier change left nothing that this one can be made on
        done = f"no change ({type(error).__name__})"
    return f"{change.__name__} {path.relative_to(root)}: {done}"


def flip(path: Path, rng: Rng) -> str:
    """Other bytes at some places."""
    data = bytearray(path.read_bytes())
    for _ in range(int(rng.integers(1, 12))):
        if data:
            data[int(rng.integers(len(data)))] = int(rng.integers(256))
    path.write_bytes(data)
    return "bytes"


def truncate(path: Path, rng: Rng) -> str:
    """The end is missing."""
    data = path.read_bytes()
    keep = pick(rng, [0, 1, len(data) // 2, max(0, len(data) - 1), int(rng.integers(len(data) + 1))])
    path.write_bytes(data[:keep])
    return f"{keep} bytes"


def splice(path: Path, rng: Rng) -> str:
    """A stretch twice, elsewhere, or gone."""
    data = path.read_bytes()
    a, b, c = sorted(int(v) for v in rng.integers(0, len(data) + 1, 3))
    path.write_bytes(data[:c] + data[a:b] + data[c:] if rng.random() < 0.5 else data[:a] + data[b:])
    return f"{a}-{b} at {c}"


def remove(path: Path, rng: Rng) -> str:
    """Gone, alone or with its folder."""
    if rng.random() < 0.3 and len(path.parents) > 2:
        shutil.rmtree(path.parent)
        return "with its folder"
    path.unlink()
    return ""


def rename(path: Path, rng: Rng) -> str:
    """Under another name, where it was."""
    names = [
        path.name.upper(), f"{path.name}.bak", f".{path.name}", f"{path.stem} copy{path.suffix}",
        f"é{path.name}",
        f"{path.stem}{pick(rng, _ENDINGS)}",
        "x" * 200 + path.suffix, f"a\n{path.name}", f"{path.stem}#%20;'\"{path.suffix}",
        "train", "images.txt",
    ]  # fmt: skip
    name: Any = pick(rng, names)
    if rng.random() < 0.1:
        os.rename(os.fsencode(path), os.fsencode(path.parent) + b"/\xd5\xd5" + os.fsencode(path.suffix))
        return "not UTF-8"
    path.rename(path.with_name(name))
    return repr(name)[:60]


def replace(path: Path, rng: Rng) -> str:
    """Something else under its name."""
    other = pick(
        rng, ["folder", "link to itself", "dangling link", "link up", "empty", "text", "another file"]
    )
    files = sorted(p for p in path.parent.parent.rglob("*") if p.is_file() and not p.is_symlink())
    content = pick(rng, files).read_bytes()
    path.unlink()
    if other == "folder":
        path.mkdir()
    elif other == "another file":
        path.write_bytes(content)
    elif "link" in other:
        path.symlink_to({"link to itself": path.name, "dangling link": "gone", "link up": ".."}[other])
    else:
        path.write_bytes(b"" if other == "empty" else b"no such thing\n")
    return other


def copy(path: Path, rng: Rng) -> str:
    """Again beside itself, with another name or ending."""
    name = pick(
        rng,
        [f"{path.stem}.png", f"{path.stem}.jpg", f"{path.stem}2{path.suffix}", f"{path.stem}.txt", "z.yaml"],
    )
    if name != path.name:
        shutil.copy(path, path.with_name(name))
    return name


def encoding(path: Path, rng: Rng) -> str:
    """The same text in other bytes."""
    text = path.read_bytes().decode("utf-8", "replace")
    name = pick(rng, ["utf-8-sig", "utf-16", "latin-1", "crlf", "cr", "form feed", "null"])
    ways = {
        "crlf": text.replace("\n", "\r\n"),
        "cr": text.replace("\n", "\r"),
        "form feed": f"{text}\f",
        "null": f"{text}\0",
    }
    data = ways[name].encode() if name in ways else text.encode(name, "replace")
    path.write_bytes(data)
    return name


def tokens(path: Path, rng: Rng) -> str:
    """Another word or number somewhere in a text."""
    text = path.read_bytes().decode("utf-8", "replace")
    found = list(re.finditer(r"[^\s,<>]+", text))
    if not found:
        return "nothing"
    new = str(pick(rng, ODD))
    for _ in range(pick(rng, [1, 1, 3])):
        at = pick(rng, found)
        text = text[: at.start()] + new + text[at.end() :]
    path.write_bytes(text.encode("utf-8", "replace"))
    return repr(new)[:40]


def lines(path: Path, rng: Rng) -> str:
    """Lines twice, in another order, or gone; other separators."""
    rows = path.read_bytes().decode("utf-8", "replace").split("\n")
    k = int(rng.integers(len(rows)))
    how = pick(rng, ["twice", "gone", "last", "blank", "short", "comma", "blanks", "longer", "many"])
    row = rows[k]
    changed = {
        "twice": [row, row], "gone": [], "blank": ["", "   ", row], "short": [row[: len(row) // 2]],
        "comma": [row.replace(" ", ",").replace("\t", ",")], "blanks": [row.replace(",", "  ")],
        "longer": [f"{row} 1 2 3", f"{row},7,8"], "many": [row] * 50, "last": [],
    }[how]  # fmt: skip
    rows[k : k + 1] = changed
    if how == "last":
        rows.append(row)
    path.write_bytes("\n".join(rows).encode("utf-8", "replace"))
    return f"{how} {k}"


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of nested lists and mappings."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = []
    for key, inner in items:
        found.append((value, key))
        found += _places(inner)
    return found


def _change(content: Any, rng: Rng) -> tuple[Any, str]:
    places = _places(content)
    if not places:
        return pick(rng, ODD), "all"
    inside, key = pick(rng, places)
    value = inside[key]
    how = pick(
        rng, ["odd", "odd", "odd", "text", "number", "gone", "again", "nested", "everywhere", "key", "sign"]
    )
    if how == "text":
        inside[key] = str(value)
    elif how == "number" and isinstance(value, int | float):
        inside[key] = value * pick(rng, [1.0, -1, 1e-3, 1e3, 0])
    elif how == "gone":
        del inside[key]
    elif how == "again" and isinstance(inside, list):
        inside.append(json.loads(json.dumps(value)))
    elif how == "nested":
        inside[key] = pick(rng, [[value], {"x": value}, [value, value]])
    elif how == "everywhere":  # the same key wherever it is
        odd = pick(rng, ODD)
        for other, name in places:
            if name == key and isinstance(other, dict):
                other[name] = odd
    elif how == "key" and isinstance(inside, dict):
        inside[pick(rng, ["x", "", f" {key}", str(key).upper(), "id", "name"])] = inside.pop(key)
    else:
        how = "odd"
        inside[key] = pick(rng, ODD)
    return content, f"{how} {key!r}"[:60]


def json_value(path: Path, rng: Rng) -> str:
    """Another value, key or order in a JSON file."""
    content, done = _change(json.loads(path.read_bytes()), rng)
    path.write_text(json.dumps(content))
    return done


def yaml_value(path: Path, rng: Rng) -> str:
    """Another value, key or order in a YAML file."""
    content, done = _change(yaml.safe_load(path.read_bytes()), rng)
    path.write_text(yaml.safe_dump(content, allow_unicode=True), errors="replace")
    return done


def yaml_text(path: Path, rng: Rng) -> str:
    """Syntax that YAML has and nobody expects."""
    text = path.read_text(errors="replace")
    more = pick(rng, _ODD_YAML)
    path.write_text(text + more if rng.random() < 0.5 else more + text)
    return repr(more)


def xml_element(path: Path, rng: Rng) -> str:
    """An element of an XML file with other text, twice, empty, renamed or gone."""
    text = path.read_text(errors="replace")
    found = list(re.finditer(r"<(\w+)>([^<]*)</\1>|<(object|bndbox|size)>.*?</\3>", text))
    if not found:
        return "nothing"
    at = pick(rng, found)
    name = at[1] or at[3]
    new = {
        "odd": f"<{name}>{pick(rng, ODD)}</{name}>", "twice": at[0] * 2, "empty": f"<{name}/>", "gone": "",
        "renamed": at[0].replace(name, "other"), "upper": at[0].replace(name, name.upper()),
        "cut": at[0][:-3],
        "entity": f"<{name}>&x;</{name}>", "many": at[0] * 40,
        "comment": f"<{name}><!-- -->{at[2] or ''}</{name}>",
    }  # fmt: skip
    how = pick(rng, sorted(new))
    path.write_bytes((text[: at.start()] + new[how] + text[at.end() :]).encode("utf-8", "replace"))
    return f"{how} {name}"


def xml_text(path: Path, rng: Rng) -> str:
    """Another head of an XML file."""
    text = re.sub(r"<\?xml.*?\?>", "", path.read_text(errors="replace"))
    head = pick(rng, _ODD_XML)
    path.write_bytes((head + text).encode("utf-8", "replace"))
    return head


def picture(path: Path, rng: Rng) -> str:
    """Another image under its name: of another size, format or mode, turned by EXIF, with further pages."""
    how = pick(rng, ["size", "tiny", "huge", "turned", "mode", "format", "pages", "bilevel", "values"])
    with Image.open(path) as opened:
        image = opened.copy()
    form = {".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF"}.get(path.suffix.lower(), path.suffix[1:].upper())
    form = "PNG" if how in ("mode", "values") or form == "GIF" else form
    options: dict[str, Any] = {}
    if how == "size":
        image = image.resize(
            pick(rng, [(image.height, image.width), (image.width + 1, image.height), (96, 64)])
        )
    elif how == "tiny":
        image = image.resize((1, 1))
    elif how == "huge":
        sides = (
            [(4000, 3000)]
            if "annotations" in str(path) or "Segment" in str(path)
            else [(20000, 6000), (20000, 10000)]
        )
        image, form = Image.new("1", pick(rng, sides)), "PNG"
    elif how == "turned":
        exif = Image.Exif()
        exif[0x0112] = pick(rng, [3, 6, 8, 99, "x"])
        options["exif"] = exif
    elif how == "mode":
        image = image.convert(pick(rng, ["L", "RGBA", "P", "LA", "I;16", "1"]))
    elif how == "format":
        form = pick(rng, ["GIF", "BMP", "PPM", "TIFF", "ICO", "AVIF"])
    elif how == "pages":
        form, options = (
            pick(rng, ["GIF", "TIFF"]),
            {"save_all": True, "append_images": [image.copy(), image.copy()]},
        )
    elif how == "bilevel":
        image = image.convert("1")
    else:
        image = Image.fromarray(rng.integers(0, 256, (image.height, image.width), dtype=np.uint8))
    image.save(path, form, **options)
    return how


def header_value(path: Path, rng: Rng) -> str:
    """Another value in the header of a safetensors file, whose checksum fits."""
    verify_safetensors(path)  # what is damaged keeps a checksum that says so
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    about = header["__metadata__"]
    card, done = _change(json.loads(about["odis"]), rng)
    about["odis"], about["checksum"] = json.dumps(card), "crc32:00000000"
    text = json.dumps(header, ensure_ascii=bool(rng.random() < 0.5)).encode("utf-8", "replace")
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    place, seal = seal_safetensors(path)
    content = bytearray(path.read_bytes())
    content[place : place + len(seal)] = seal
    path.write_bytes(content)
    return done


def json_line(path: Path, rng: Rng) -> str:
    """Another value in a line of JSON."""
    rows = path.read_text().splitlines()
    k = int(rng.integers(len(rows)))
    content, done = _change(json.loads(rows[k]), rng)
    rows[k] = json.dumps(content)
    path.write_text("".join(f"{row}\n" for row in rows))
    return f"line {k}: {done}"


_OF_ANY: list[Callable[[Path, Rng], str]] = [flip, truncate, splice, remove, rename, replace, copy]
_OF_IMAGE: list[Callable[[Path, Rng], str]] = [picture, picture, flip, rename]
_OF_TEXT: dict[str, list[Callable[[Path, Rng], str]]] = {
    ".safetensors": [header_value, header_value, flip, truncate],
    ".pt": [flip, flip, truncate, splice],
    ".jsonl": [json_line, json_line, tokens, lines, encoding],
    ".json": [json_value, json_value, json_value, json_value, tokens, encoding],
    ".yaml": [yaml_value, yaml_value, yaml_text, tokens, lines, encoding],
    ".yml": [yaml_value, yaml_text, tokens, lines, encoding],
    ".xml": [xml_element, xml_element, xml_element, xml_text, tokens, encoding],
}

"""Rules of the house: imports point one way, files stay short, every setting is read, nothing heavy is
imported before it is needed.
"""

import ast
import dataclasses
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from odis.commands import commands
from odis.commands.command import Group
from odis.config.training import PretrainConfig

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
ALL_PYTHON = sorted(p for folder in ("src", "tests", "benchmarks") for p in (ROOT / folder).rglob("*.py"))

# Parts of odis, lowest first. A part may import those of its own row and of the rows above it; nothing points
# back.
LAYERS = [
    {"errors", "types"},
    {"config", "machine"},
    {"kernels"},
    {"method"},
    {"backbones"},
    {"objects"},
    {"data"},
    {"inference"},
    {"finding"},
    {"train"},
    {"evaluation"},
    {"report", "benchmark", "pictures", "exporting", "downstream", "explorer"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
LAYER = {part: number for number, parts in enumerate(LAYERS) for part in parts}


def module_name(path: Path) -> str:
    """`odis.data.geometry.crops` for src/odis/data/crops.py, `odis.data` for its __init__."""
    parts = path.relative_to(ROOT / "src").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part(module: str) -> str:
    """The part of odis a module belongs to: `data` for `odis.data.geometry.crops`; empty for `odis`
    itself.
    """
    return module.split(".")[1] if "." in module else ""


MODULES = {module_name(p) for p in SOURCES}


def imported(path: Path, *, of_types_too: bool = True) -> set[str]:
    """Modules of odis that a file imports, anywhere in it; without those under TYPE_CHECKING if asked."""
    tree = ast.parse(path.read_text())
    skipped: set[ast.AST] = set()
    if not of_types_too:
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.If)
                and isinstance(node.test, ast.Name)
                and node.test.id == "TYPE_CHECKING"
            ):
                skipped.update(ast.walk(node))
    names = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                names.add(whole if whole in MODULES else str(node.module))
    return {n for n in names if n == "odis" or n.startswith("odis.")}


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_point_one_way(path: Path):
    here = part(module_name(path))
    if not here:
        assert imported(path, of_types_too=False) == set(), "`import odis` imports nothing"
        return
    assert here in LAYER, f"{here} has no place yet: give it one in LAYERS"
    above = {m for m in imported(path) if part(m) and LAYER[part(m)] > LAYER[here]}
    assert not above, f"{module_name(path)} must not import {above}"


def test_parts_import_each_other_in_no_circle():
    graph: dict[str, set[str]] = {}
    for path in SOURCES:
        here = part(module_name(path))
        graph.setdefault(here, set()).update(
            {part(m) for m in imported(path, of_types_too=False)} - {here, ""}
        )
    list(graphlib.TopologicalSorter(graph).static_order())


def test_modules_import_each_other_in_no_circle():
    graph = {module_name(p): imported(p, of_types_too=False) - {"odis", module_name(p)} for p in SOURCES}
    list(graphlib.TopologicalSorter(graph).static_order())


METHOD = sorted((ROOT / "src" / "odis" / "method").rglob("*.py"))
HARDWARE = {
    "device.type",
    "torch.cpu",
    "torch.backends",
    "torch.cuda",
    "autograd.Function",
    "get_rank",
    "is_compiling",
}


def dotted(node: ast.AST) -> str:
    """`a.b.c` for an attribute of attributes of a name; what is not a name counts as empty."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize("path", METHOD, ids=module_name)
def test_the_method_names_no_hardware_no_path_and_nothing_private(path: Path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        name = dotted(node)
        assert not any(f".{name}.".endswith(f".{word}.") for word in HARDWARE), (
            f"{name} belongs to kernels or machine"
        )
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            assert not {m.split(".")[0] for m in modules} & {
                "os",
                "pathlib",
                "io",
                "numba",
                "Function",
                "Path",
            }
            assert not any("distributed" in m or "backends" in m for m in modules)
            whole = ".".join(modules)
            assert not (whole.startswith("torch") and re.search(r"(^|\.)_", whole)), whole
        if isinstance(node, ast.Attribute) and name.split(".")[0] in {"torch", "F", "nn"}:
            assert not any(word.startswith("_") for word in name.split(".")), f"{name} is private"


def test_the_method_stays_short():
    assert sum(len(path.read_text().splitlines()) for path in METHOD) < 1300


DOORS = {"odis.kernels.choose", "odis.machine.devices"}


@pytest.mark.parametrize("path", [p for p in SOURCES if module_name(p) not in DOORS], ids=module_name)
def test_two_doors_ask_what_hardware_there_is(path: Path):
    """Which kernel runs, and on which device in which precision; what depends on a tensor's own device may
    ask it.
    """
    asked = {"torch.cpu", "torch.backends", "torch.cuda.is_available", "is_bf16_supported", "cpuinfo"}
    names = {
        dotted(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)
    }
    found = {name for name in names for word in asked if f".{name}.".find(f".{word}.") >= 0}
    assert not found, f"{found} belong to kernels/choose.py or machine/devices.py"


@pytest.mark.parametrize(
    ("what", "where"),
    [
        (r"\b(?:LOCAL_)?(?:RANK|WORLD_SIZE)\b", "machine/ranks.py"),
        (r"\brich\.progress\b", "machine/progress.py"),
        (r"\bbfloat16\b.*\bfloat16\b", "machine/devices.py"),
        (r"\bimport .*\bDataLoader\b", "data/workers.py"),
        (r"/dev/shm\"", "machine/shared_memory.py"),
    ],
    ids=["torchrun", "progress bars", "dtypes", "workers", "shared memory"],
)
def test_one_file_is_asked(what: str, where: str):
    found = [
        path.relative_to(ROOT / "src" / "odis").as_posix()
        for path in SOURCES
        if re.search(what, path.read_text())
    ]
    assert found == [where]


@pytest.mark.parametrize("path", ALL_PYTHON, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_is_long(path: Path):
    assert len(path.read_text().splitlines()) <= (400 if "src" in path.parts else 510)


def test_no_file_is_a_place_for_anything():
    for path in ALL_PYTHON:
        assert path.stem not in {"utils", "util", "common", "misc", "helpers"}, path


def test_no_class_name_is_defined_twice():
    where: dict[str, list[str]] = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                where.setdefault(node.name, []).append(module_name(path))
    assert {name: modules for name, modules in where.items() if len(modules) > 1} == {}


@pytest.mark.parametrize("path", [p for p in SOURCES if p.read_text().strip()], ids=module_name)
def test_every_module_and_public_function_says_what_it_is(path: Path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path.name} has no docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path.name}: {node.name} has no docstring"


def read_in(tree: ast.AST) -> set[tuple[str, str]]:
    """What the code reads: (`section`, `field`) of `<section>.field` and `<...>.section.field`, and
    ("", text) of every text where it uses `getattr`.
    """
    nodes = list(ast.walk(tree))
    found = set()
    if any(isinstance(node, ast.Name) and node.id == "getattr" for node in nodes):
        found = {("", n.value) for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            owner = node.value
            if isinstance(owner, ast.Attribute | ast.Name):
                found.add((owner.attr if isinstance(owner, ast.Attribute) else owner.id, node.attr))
    return found


SETTINGS = [
    (section.name, field.name)
    for section in dataclasses.fields(PretrainConfig)
    for field in (
        dataclasses.fields(section.default_factory)
        if dataclasses.is_dataclass(section.default_factory)
        else ()
    )
] + [("config", name) for name in ("data", "val", "strict")]


def test_every_setting_is_read():
    read = set().union(*(read_in(ast.parse(p.read_text())) for p in SOURCES if "config" not in p.parts))
    unread = [
        f"{section}.{field}"
        for section, field in SETTINGS
        if not {(section, field), ("config", field), ("", field)} & read
    ]
    assert unread == []


def test_no_path_of_one_machine_is_written_down():
    somewhere = re.compile(
        r"(?<![\w.~])/(?:"
        + "|".join(["wo" + "rk", "ho" + "me", "ro" + "ot", "Us" + "ers", "t" + "mp"])
        + r")/"
    )
    files = [
        *ALL_PYTHON,
        *ROOT.glob("*.md"),
        *ROOT.glob("*.toml"),
        ROOT / "Makefile",
        *(ROOT / "src").rglob("*.yaml"),
    ]
    for path in files:
        found = [line for line in path.read_text().splitlines() if somewhere.search(line)]
        assert not found, f"{path}: {found[0].strip()}"


WRITER = "written_whole"
LOGS = {"train/metrics.py", "train/run_log.py"}  # appended to line by line, never rewritten in place
WRITER_OF_FOLDERS = "written_folder"
INTO_FOLDERS = {"train/shard_files.py": "state_dict_saver.save"}  # torch writes into a folder that it gave
RENAMES = {
    *("os." + name for name in ("replace", "rename", "renames", "link", "symlink", "truncate")),
    *("shutil." + name for name in ("move", "copy", "copy2", "copyfile", "copytree")),
    *("tempfile." + name for name in ("mkstemp", "mkdtemp", "NamedTemporaryFile")),
}
# Where a call that writes has its file: the receiver (None), or the number of an argument.
WRITES: dict[str, int | None] = {
    "write_text": None, "write_bytes": None, "touch": None, "hardlink_to": None, "symlink_to": None,
    "save": 0, "savez": 0, "savez_compressed": 0, "savetxt": 0, "savefig": 0, "tofile": 0, "to_csv": 0,
    "torch.save": 1, "save_file": 1, "pq.write_table": 1, "ParquetWriter": 0, "OSFile": 0,
}  # fmt: skip
IN_MEMORY = {"io.BytesIO", "BytesIO", "io.StringIO", "pa.BufferOutputStream"}


def called(node: ast.Call) -> str:
    """`os.replace` for `os.replace(a, b)`; `.open` for a method of anything but a name."""
    if isinstance(node.func, ast.Name):
        return node.func.id
    if isinstance(node.func, ast.Attribute):
        owner = node.func.value
        return f"{owner.id if isinstance(owner, ast.Name) else ''}.{node.func.attr}"
    return ""


def opens_to_write(node: ast.Call) -> bool:
    """Whether it is an `open` in a mode that writes, or in one that only running it would tell."""
    builtin = called(node) in {"open", "io.open", "os.fdopen", "gzip.open", "codecs.open"}
    given = [k.value for k in node.keywords if k.arg == "mode"] + node.args[1 if builtin else 0 :][:1]
    modes = [m.value if isinstance(m, ast.Constant) else "w" if builtin else "" for m in given]
    return any(isinstance(m, str) and re.fullmatch(r"[rwaxbt+]+", m) and set(m) & set("wax+") for m in modes)


def file_of(node: ast.Call) -> ast.expr | str | None:
    """What a call writes to; a word if no name would do; None if it writes nothing."""
    name = called(node)
    method = name.rpartition(".")[2]
    if name in RENAMES:
        return name
    if name == "os.open" or (name.endswith(".OSFile") and len(node.args) == 1):
        return None
    if method in {"open", "fdopen"} and opens_to_write(node):
        path = isinstance(node.func, ast.Attribute) and name not in {"io.open", "os.fdopen", "gzip.open"}
        return node.func.value if path and isinstance(node.func, ast.Attribute) else node.args[0]
    if method in {"rename", "replace"} and isinstance(node.func, ast.Attribute):
        return name if len(node.args) == 1 and not node.keywords else None  # of text it takes two
    place = WRITES.get(name, WRITES.get(method, -1))
    if place == -1:
        return None
    if place is None:
        return node.func.value if isinstance(node.func, ast.Attribute) else name
    return node.args[place] if place < len(node.args) else name


def written_otherwise(source: str) -> list[str]:
    """Calls that write a file which is not one that `with written_whole(...) as NAME` gave."""
    found: list[str] = []

    def visit(node: ast.AST, given: frozenset[str]) -> None:
        if isinstance(node, ast.FunctionDef | ast.Lambda | ast.Module):
            given |= {
                target.id
                for assign in ast.walk(node)
                if isinstance(assign, ast.Assign) and isinstance(assign.value, ast.Call)
                for target in assign.targets
                if isinstance(target, ast.Name) and called(assign.value) in IN_MEMORY
            }
        if isinstance(node, ast.With):
            for item in node.items:
                visit(item.context_expr, given)
                call, name = item.context_expr, item.optional_vars
                if not isinstance(call, ast.Call) or not isinstance(name, ast.Name):
                    continue
                # An open file of such a name is one too.
                if called(call) == WRITER or (file_of(call) is not None and allowed(call, given)):
                    given |= {name.id}
            for child in node.body:
                visit(child, given)
            return
        if isinstance(node, ast.Call) and file_of(node) is not None and not allowed(node, given):
            found.append(f"line {node.lineno}: {ast.unparse(node)[:60]}")
        for child in ast.iter_child_nodes(node):
            visit(child, given)

    def allowed(node: ast.Call, given: frozenset[str]) -> bool:
        target = file_of(node)
        if isinstance(target, ast.Call) and called(target) == "str" and target.args:
            target = target.args[0]
        return isinstance(target, ast.Name) and target.id in given

    visit(ast.parse(source), frozenset())
    return found


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_files_are_written_whole(path: Path):
    """One function writes files; whatever else writes gets its path from it."""
    name = path.relative_to(ROOT / "src" / "odis").as_posix()
    if name == "machine/files.py":
        return
    source = path.read_text()
    found = written_otherwise(source)
    if name in LOGS:
        found = [call for call in found if not call.endswith(".open('a')")]
    if name in INTO_FOLDERS:
        assert re.search(rf"^from odis\.machine\.folders import {WRITER_OF_FOLDERS}$", source, re.MULTILINE)
        found = [call for call in found if INTO_FOLDERS[name] not in call]
    assert found == []
    if WRITER in source:
        assert f"def {WRITER}" not in source
        assert re.search(rf"^from odis\.machine\.files import .*\b{WRITER}\b", source, re.MULTILINE)


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("open(p, 'w')", 1),
        ("open(p, mode='wb')", 1),
        ("open(p, how)", 1),
        ("open(p)", 0),
        ("p.open('rb')", 0),
        ("p.open('a')", 1),
        ("p.open(mode='x')", 1),
        ("ObjectIndex.open('x.parquet')", 0),
        ("(folder / 'x').write_text('y')", 1),
        ("p.write_bytes(b'')", 1),
        ("p.rename(q)", 1),
        ("p.replace(q)", 1),
        ("text.replace('a', 'b')", 0),
        ("os.replace(p, q)", 1),
        ("shutil.move(p, q)", 1),
        ("np.save(p, x)", 1),
        ("torch.save(state, p)", 1),
        ("picture.save(p)", 1),
        ("picture.save(io.BytesIO())", 1),
        ("data = io.BytesIO()\npicture.save(data, 'PNG')", 0),
        ("figure.savefig(fname=p)", 1),
        ("save_file(weights, p)", 1),
        ("pq.write_table(table, p)", 1),
        ("writer.write_table(table)", 0),
        ("with pq.ParquetWriter(p, schema) as w: w.write_batch(b)", 1),
        ("with written_whole(p) as q: q.write_text('y')", 0),
        ("with written_whole(p) as q: p.write_text('y')", 1),
        ("with written_whole(p) as q: pass\nq.write_text('y')", 1),
        ("with written_whole(p) as q, q.open('wb') as f: torch.save(state, f)", 0),
        ("with written_whole(p) as q, pq.ParquetWriter(q, s) as w: w.write_batch(b)", 0),
        ("with written_whole(p) as q, pa.OSFile(str(q), 'wb') as sink: pass", 0),
        ("with written_whole(p) as q, p.open('wb') as f: torch.save(state, f)", 2),
        ("with written_whole(p) as q: figure.savefig(q, dpi=9)", 0),
        ("with something(p) as q: figure.savefig(q)", 1),
    ],
)
def test_what_writes_a_file_is_recognised(code: str, count: int):
    assert len(written_otherwise(code)) == count


def modules_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has imported after running `code`."""
    report = f"import sys\n{code}\nprint('MODULES', *{{m.split('.')[0] for m in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


HEAVY = {"torch", "torchvision", "timm", "pyarrow", "matplotlib", "sklearn", "numba", "transformers", "ray"}


@pytest.mark.parametrize(
    "code",
    [
        "import odis",
        "from odis.cli import main; main(['--help'])",
        "from odis.cli import main; main(['--version'])",
        "from odis.cli import main; main(['completion', 'bash'])",
        "from odis.config.options import load_recipe; load_recipe('debug')",
        "from odis.cli import main\ntry: main(['pretrain', '--nonsense'])\nexcept SystemExit: pass",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code: str):
    loaded = modules_after(code)
    assert "odis" in loaded
    assert not loaded & HEAVY


def all_commands(group: Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The names of every command and group, as one types them."""
    for name, command in group.commands.items():
        yield (*path, name)
        if isinstance(command, Group):
            yield from all_commands(command, (*path, name))


@pytest.mark.parametrize("path", list(all_commands(commands())), ids=" ".join)
def test_help_imports_nothing_heavy(path: tuple[str, ...]):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "odis", *path, "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: odis {' '.join(path)} ")
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "jsonargparse" in loaded
    assert not loaded & HEAVY

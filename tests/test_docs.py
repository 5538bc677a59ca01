"""README and docs against the code: commands parse; settings, files, links, anchors exist; examples run."""

import ast
import importlib
import inspect
import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import odis
from odis.backbones.build import build_pair
from odis.backbones.saved import save_model
from odis.cli import find_command, main, parse_options
from odis.commands import commands as all_commands
from odis.commands.command import Command, Group
from odis.config.checks import check
from odis.config.options import add_config, load_recipe, new_parser, to_config
from odis.config.query import MODES
from odis.config.recipes import recipe_names
from odis.errors import ConfigError
from odis.train.saved_state import model_card

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]
TEXT = {path.relative_to(ROOT).as_posix(): path.read_text() for path in FILES}
README = TEXT["README.md"]
BY_NAME = pytest.mark.parametrize("name", TEXT)


def blocks(language: str, text: str) -> list[str]:
    """Fenced blocks of a language; the empty one is plain text."""
    found = re.findall(r"^```([^\n`]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for name, block in found if name == language]


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def section(text: str, heading: str) -> str:
    """The text under a heading, up to the next."""
    return text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def first_column(text: str) -> list[str]:
    """What stands in backticks at the start of each table row."""
    return re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)


def shell_lines(text: str) -> list[list[str]]:
    """The words of every line in shell blocks; a line that ends in a backslash goes on."""
    lines = [line for block in blocks("sh", text) for line in block.replace("\\\n", " ").splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def commands(text: str) -> list[list[str]]:
    """The arguments of every `odis ...` command, also under `srun`, `torchrun` and `docker`; no `> FILE`."""
    found = []
    for line in shell_lines(text):
        words = ["odis" if line[0] == "docker" and word == "odis:cuda" else word for word in line]
        words = words[: words.index(">")] if ">" in words else words
        if "odis" in words and line[:2] != ["docker", "build"]:
            last = len(words) - words[::-1].index("odis")  # behind `-m`, if the image is named before
            found.append(words[last:])
    return found


COMMANDS = [(name, arguments) for name, text in TEXT.items() for arguments in commands(text)]


def parsed(arguments: list[str]):
    """The options of an `odis` command line."""
    path, command, rest = find_command(arguments)
    assert isinstance(command, Command), f"{path} is a group"
    return parse_options(path, command, rest)


def group(name: str) -> Group:
    """The commands behind `odis NAME`."""
    found = all_commands().commands[name]
    assert isinstance(found, Group)
    return found


@pytest.mark.parametrize(("name", "arguments"), COMMANDS, ids=lambda a: " ".join(a)[:60])
def test_every_command_parses(name: str, arguments: list[str], tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for recipe in blocks("yaml", TEXT[name]):  # a reader's own recipe: its first line says its file's name
        Path(re.match(r"# (\w+\.yaml)", recipe)[1]).write_text(recipe)
    options = parsed(arguments)
    prints = arguments[:2] == ["index", "stats"] and not options.pixels
    assert prints or options.get("out", "none is asked for"), "a reader's command says where its result goes"
    if "recipe" in options:
        options.data = options.get("index") or options.data
        check(to_config(options))


def test_a_command_with_a_wrong_option_would_be_seen():
    with pytest.raises(ConfigError):
        parsed(["pretrain", "--data", "x", "--optim.base_rate", "1"])


@pytest.mark.parametrize("name", ["README.md", "docs/quickstart.md"])
def test_the_walkthroughs_are_whole(name: str):
    for data in ("photos", "coco"):
        verbs = [c[0] for c in commands(TEXT[name]) if any(data in word for word in c)]
        assert verbs[:5] == ["index", "index", "inspect", "pretrain", "evaluate"]


VIEWS = ["--views.global_size=32", "--views.local_size=16", "--loader.workers=0"]
SMALLER = {  # what makes a command of the documentation one of a moment
    "index": [],
    "inspect": [*VIEWS, "--images=1"],
    "pretrain": [
        *VIEWS, "--model.depth=1", "--model.embed_dim=32", "--model.num_heads=2", "--head.prototypes=24",
        "--head.hidden=16", "--head.bottleneck=8", "--train.device=cpu", "--train.steps=2",
        "--train.batch_size=4", "--train.threads=1",
    ],
    "evaluate": ["--k=1", "--workers=0"],
    "export": [],
}  # fmt: skip


def own_images(folder: Path) -> None:
    """The two data sets of the walkthroughs: class folders, and COCO's layout."""
    rng = np.random.default_rng(0)

    def save(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(path)

    for part in ("train", "val"):
        for i in range(4):
            save(folder / "photos" / part / ("cat", "dog")[i % 2] / f"{i}.jpg")
        images = [{"id": i, "file_name": f"{i}.jpg", "width": 64, "height": 48} for i in range(4)]
        for image in images:
            save(folder / "coco" / f"{part}2017" / image["file_name"])
        objects = [
            {"id": 2 * i + k, "image_id": i, "category_id": k, "bbox": [2 + 30 * k, 4, 26, 36], "iscrowd": 0}
            for i in range(4)
            for k in (0, 1)
        ]
        names = [{"id": 0, "name": "cup"}, {"id": 1, "name": "spoon"}]
        (folder / "coco" / "annotations").mkdir(exist_ok=True)
        listed = {"images": images, "annotations": objects, "categories": names}
        (folder / "coco" / "annotations" / f"instances_{part}2017.json").write_text(json.dumps(listed))


@pytest.mark.slow
def test_the_walkthroughs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """README's commands from a reader's images to an exported network; small, but for what is fetched from a
    hub.
    """
    own_images(tmp_path)
    monkeypatch.chdir(tmp_path)
    fetched = re.compile(r"torchvision:|timm:|odis-post|runs/post")
    readme = [line for line in commands(README) if not fetched.search(" ".join(line))]
    assert [line[0] for line in readme] == [
        *(["index", "index", "inspect", "pretrain", "evaluate"] * 2), "export",
    ]  # fmt: skip
    quickstart = commands(TEXT["docs/quickstart.md"])
    assert all(line in quickstart for line in readme[:10]), "the same walkthroughs, so they run too"
    for line in readme:
        main([*line, *SMALLER[line[0]]])
        out = line[line.index("--out") + 1]
        assert (tmp_path / out).exists(), line
    said = capsys.readouterr()
    assert "done: runs/photos/model.safetensors" in said.err
    assert "done: runs/coco/model.safetensors" in said.err
    assert not re.search("skipped [^,)]|warning: (?!4 images|.*no label)", said.err), said.err


def test_other_shell_lines_name_what_exists():
    makefile = (ROOT / "Makefile").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    seen = set()
    for name, text in TEXT.items():
        for words in shell_lines(text):
            if "make" in words[:2]:
                targets = [w for w in words[words.index("make") + 1 :] if "=" not in w]
                assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets), name
                seen.add("make")
            for word in words:
                if word.startswith("benchmarks/") and word.endswith((".py", ".sh")):
                    script = (ROOT / word).read_text()
                    assert all(f'"{w}"' in script for w in words if w.startswith("--")), (name, words)
                    seen.add("script")
                if extra := re.fullmatch(r"(?:\.|odis)\[(.+)\]", word):
                    assert set(extra[1].split(",")) <= extras.keys(), (name, word)
                    seen.add("extra")
    assert seen == {"make", "script", "extra"}


def test_containers_are_started_as_the_image_wants_it():
    lines = [line for line in shell_lines(TEXT["docs/docker.md"]) if line[0] == "docker"]
    recipe = (ROOT / "Dockerfile").read_text()
    arguments = dict(re.findall(r"^ARG (\w+)=(.+)$", recipe, re.MULTILINE))
    table = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", TEXT["docs/docker.md"], re.MULTILINE))
    assert table == arguments
    builds = [line for line in lines if line[1] == "build"]
    given = [
        line[k + 1].split("=")[0] for line in builds for k, word in enumerate(line) if word == "--build-arg"
    ]
    assert given == ["TORCH"]
    built = {line[line.index("-t") + 1] for line in builds}
    runs = [line for line in lines if line[1] == "run"]
    assert len(runs) >= 5
    for line in runs:
        image = next(word for word in line if word in built)
        assert ("--gpus" in line) == (image == "odis:cuda")
        assert re.fullmatch(r"\d+g", line[line.index("--shm-size") + 1]), line
        assert {"$PWD:/data", "odis-cache:/cache"} <= set(line)
    assert "WORKDIR /data" in recipe
    assert "XDG_CACHE_HOME=/cache" in recipe


STUBS = {
    "srun": 'echo srun "$@" >>told; exec "$@"',
    "odis": 'echo odis "$@" >>told; exit "$CODE"',
    "torchrun": 'echo torchrun "$@" >>told; exit "$CODE"',
    "scontrol": 'if [ "$1" = show ]; then echo node1; echo node2; else echo scontrol "$@" >>told; fi',
}
SBATCH = {
    *("job-name", "ntasks", "nodes", "ntasks-per-node", "gpus", "gpus-per-node", "cpus-per-task", "mem"),
    *("time", "signal", "requeue", "open-mode", "array"),
}
JOBS = [block for block in blocks("sh", TEXT["docs/slurm.md"]) if block.startswith("#!/bin/bash\n")]


@pytest.mark.parametrize("code", [0, 130])
@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.splitlines()[-1][:20])
def test_jobs_run_as_scripts(job: str, code: int, tmp_path: Path):
    """By bash, with stand-ins for SLURM's commands: what they are given, and what is done at the end."""
    options = re.findall(r"^#SBATCH --([a-z-]+)(?:=\S+)?", job, re.MULTILINE)
    assert set(options) <= SBATCH
    assert "time" in options
    for name, line in STUBS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin", "CODE": str(code), "SLURM_JOB_ID": "77", "SLURM_NNODES": "4",
        "SLURM_JOB_NODELIST": "node[1-4]", "SLURM_ARRAY_TASK_ID": "3",
    }  # fmt: skip
    (tmp_path / "job").write_text(job)
    done = subprocess.run(
        ["bash", "-u", "job"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stderr == ""
    told = [shlex.split(line) for line in (tmp_path / "told").read_text().splitlines()]
    assert (["scontrol", "requeue", "77"] in told) == (code == 130 and "requeue" in job.split("srun")[-1])
    (command,) = [line for line in told if line[0] in ("odis", "torchrun")]
    parsed(command[1:] if command[0] == "odis" else command[command.index("odis") + 1 :])
    if "--rdzv-endpoint" in command:
        assert command[command.index("--rdzv-endpoint") + 1] == "node1:29500"
        assert command[command.index("--nnodes") + 1] == "4"


def settings() -> set[str]:
    """Every `section.name`."""
    parser = new_parser("pretrain", "")
    add_config(parser)
    options = {option for action in parser._actions for option in action.option_strings}
    return {option[2:] for option in options if "." in option and not option.endswith("+")}


SETTINGS = settings()


def test_settings_in_the_text_exist():
    sections = {name.split(".")[0] for name in SETTINGS}
    found = 0
    for name, text in TEXT.items():
        named = set(re.findall(r"--([a-z]+\.[a-z_]+)", text))
        named |= set(re.findall(r"`([a-z]+\.[a-z_]+)[ `]", text))
        named = {setting for setting in named if setting.split(".")[0] in sections}
        named -= {"model.safetensors", "model.embed"}  # a file and a method
        files = {setting for setting in named if setting.endswith((".py", ".yaml", ".txt"))}
        assert named - files <= SETTINGS, name
        found += len(named)
    assert found > 40


def test_the_table_of_recipes_is_that_of_the_package():
    rows = re.findall(r"^\| `([^`]+)` \| .* \| (\d+|-) \|$", TEXT["docs/recipes.md"], re.MULTILINE)
    assert sorted(name for name, _ in rows) == recipe_names()
    for name, batch in rows:  # nobody plans a machine around the demo
        assert batch == ("-" if name == "demo" else str(load_recipe(name).train.batch_size)), name


@BY_NAME
def test_recipes_in_the_text_exist(name: str):
    named = set(re.findall(r"--recipe (?!NAME|mine\.yaml|my\.yaml)([\w.-]+)", TEXT[name]))
    named |= set(re.findall(r"`((?:odis|ibot|dino)-(?:small|tiny|vit)[a-z0-9-]*)`", TEXT[name]))
    assert named <= set(recipe_names())


def test_the_modes_are_those_of_the_code():
    assert first_column(section(TEXT["docs/using.md"], "Modes")) == ["--mode", *MODES]


def test_the_annotation_formats_are_those_of_the_code():
    table = TEXT["docs/formats.md"].split("\n## ", 1)[0]
    assert first_column(table) == ["odis index", *group("index").sections["annotation formats"]]


def test_the_evaluations_are_those_of_the_code():
    headings = re.findall(r"^## (`.*)$", TEXT["docs/evaluation.md"], re.MULTILINE)
    assert re.findall(r"`([a-z-]+)`", " ".join(headings)) == list(group("evaluate").commands)


def test_odis_small_is_as_described():
    config = load_recipe("odis-small")
    assert (config.head.norm, config.loss.centering) == ("batch", "sinkhorn")
    assert config.model.object_tokens == "read-only"
    assert config.head.prototypes < load_recipe("odis-vits16").head.prototypes
    assert load_recipe("demo").model.object_tokens == "read-only"


def slugs(text: str) -> set[str]:
    """Anchors of a page's headings, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@BY_NAME
def test_links_lead_somewhere(name: str):
    here = ROOT / name
    for target in re.findall(r"\[[^\]]*\]\((?!https?:)([^)\s]+)\)", TEXT[name]):
        path, _, anchor = target.partition("#")
        file = (here.parent / path).resolve() if path else here
        assert file.exists(), f"{name}: {target}"
        if anchor:
            assert anchor in slugs(file.read_text()), f"{name}: {target}"


@BY_NAME
def test_files_named_in_the_text_exist(name: str):
    package = ROOT / "src" / "odis"
    for path in re.findall(r"`([\w./-]+/[\w./-]*)`", TEXT[name]):
        top = path.split("/")[0]
        if top in {"src", "tests", "benchmarks", "docs", "notebooks"}:
            assert (ROOT / path).exists(), f"{name}: {path}"
        elif (package / top).is_dir() and path.endswith((".py", "/")):
            assert (package / path).exists(), f"{name}: {path}"


def test_every_page_is_in_a_table_of_contents():
    linked = set()
    for path in PAGES:
        for toc in blocks("{toctree}", path.read_text()):
            entries = [line for line in toc.splitlines() if line and not line.startswith(":")]
            linked |= {(path.parent / f"{entry}.md").resolve() for entry in entries}
    assert {p for p in PAGES if p.name != "index.md"} == linked


def test_the_readme_is_short_and_begins_with_the_licence():
    lines = README.splitlines()
    assert len(lines) <= 200
    assert lines[0] == "# odis"
    assert lines[2].startswith("Apache-2.0: the code is free to use, and the weights you train are yours.")


def test_the_drawing_has_the_layers_of_the_house():
    tree = ast.parse((ROOT / "tests" / "test_house.py").read_text())
    layers = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "LAYERS"
    )
    drawing = (ROOT / "docs" / "layers.svg").read_text()
    drawn = [set(names.split(" · ")) for names in re.findall(r'class="n"[^>]*>([^<]+)<', drawing)]
    assert drawn[::-1] == [row for row in layers if row != {"__main__"}]
    alt = re.search(r":alt: (.*)", TEXT["docs/architecture.md"])[1]
    assert [set(re.findall(r"\w+", row)) for row in alt.split("top: ")[1].split(". ")[0].split("; ")] == drawn


PYTHON = [(name, block) for name, text in TEXT.items() for block in blocks("python", text)]


@pytest.mark.parametrize(("name", "block"), PYTHON, ids=lambda text: text[:40])
def test_python_compiles(name: str, block: str):
    compile(block, name, "exec")


def test_names_of_odis_in_python_exist_and_take_what_they_are_given():
    seen = set()
    for name, block in PYTHON:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("odis"):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names), (name, node.module)
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if getattr(node.func.value, "id", "") == "odis":
                function = getattr(odis, node.func.attr)
                keywords = {keyword.arg: keyword.value for keyword in node.keywords}
                inspect.signature(function).bind(*node.args, **keywords)
                seen.add(node.func.attr)
    assert "load" in seen


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder with the run and the photograph of the examples."""
    config = load_recipe("odis-small")
    _, teacher = build_pair(config)
    (tmp_path / "runs" / "coco").mkdir(parents=True)
    run = SimpleNamespace(config=config, patch_size=16, provenance="annotated", step=1, recipe="odis-small")
    save_model(tmp_path / "runs" / "coco" / "model.safetensors", teacher.backbone, model_card(run))
    pixels = np.random.default_rng(0).integers(0, 256, (260, 320, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    return teacher


def test_using_a_model_runs(run_folder):
    readme, *_ = blocks("python", README)
    three_lines, embed, _, in_timm = blocks("python", TEXT["docs/using.md"])
    for lines in (readme, three_lines):
        assert len([line for line in lines.splitlines() if line.strip()]) == 3
        names: dict = {}
        exec(lines, names)
        assert names["vector"].shape == (1, 192)
    exec(embed, names)
    one, other = names["found"]
    assert one.objects.shape == (2, 192)
    assert other.objects.shape == (0, 192)
    assert one.image.shape == (192,)
    assert one.patches.shape == (one.grid[0] * one.grid[1], 192)
    assert names["whole"][1].objects.shape == (1, 192)
    exec(in_timm, names)
    ours = run_folder.backbone.state_dict()
    assert ours.keys() - names["vit"].state_dict().keys() == {"mask_token", "object_token"}
    assert all((names["vit"].state_dict()[key] == ours[key]).all() for key in names["vit"].state_dict())


def test_kernels_are_turned_off_as_described(run_folder):
    block, _ = blocks("python", TEXT["docs/troubleshooting.md"])
    names: dict = {}
    exec(block, names)
    assert names["fast"].shape == names["plain"].shape == (1, 192)
    assert (names["fast"] - names["plain"]).abs().max() < 1e-3


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_features_are_read_back_in_one_line(dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import duckdb
    import pyarrow.parquet

    from odis.inference.feature_tables import feature_schema

    folder = tmp_path / "features" / "coco"
    folder.mkdir(parents=True)
    row = {"image": "a", "row": 0, "box": [0, 0, 1, 1], "class": "cat", "provenance": "x"}
    vector = np.arange(4, dtype="float16" if dtype == "fp16" else "float32")
    rows = [row | {"object": i, "vector": vector} for i in range(3)]
    table = pyarrow.Table.from_pylist(rows, feature_schema(4, dtype))
    pyarrow.parquet.write_table(table, folder / "part-00000.parquet")
    (folder / "_about.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    names: dict = {"pyarrow": pyarrow, "numpy": np, "duckdb": duckdb}
    reading = blocks("python", TEXT["docs/using.md"])[2]
    exec(reading, names)
    assert names["table"].num_rows == 3
    assert names["vectors"].tolist() == [[0, 1, 2, 3]] * 3
    assert eval(reading.strip().splitlines()[-1].split("  #")[0], names).fetchall() == [("cat", 3)]

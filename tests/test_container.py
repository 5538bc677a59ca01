"""The Dockerfile: linted, and what it copies, installs and runs as."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LINES = [line for line in TEXT.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]


def instructions(name: str) -> list[list[str]]:
    """The words behind each instruction of a name."""
    return [shlex.split(line)[1:] for line in LINES if line.split()[0] == name]


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}") or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    wrong = subprocess.run([hadolint, "-"], input="FROM python\nRUN cd /x\n", capture_output=True, text=True)
    assert "DL3003" in wrong.stdout
    done = subprocess.run([hadolint, "--no-color", str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_context_has_what_is_copied_and_little_else() -> None:
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [
        source for words in instructions("COPY") if "--from=build" not in words for source in words[:-1]
    ]
    assert sorted(kept) == sorted(copied)
    assert all((ROOT / source).exists() for source in copied)
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [PROJECT["readme"], *PROJECT["license-files"], build["tool"]["hatch"]["version"]["path"]]
    for path in wanted:  # what the build of the wheel reads
        assert any(fnmatch(path, source) or path.startswith(f"{source}/") for source in copied), path


def test_it_installs_what_the_project_asks_for() -> None:
    (install,) = [words for words in instructions("RUN") if "--index-url" in words]
    given = [word for word in install if word.startswith("torch")]
    assert given == [one for one in PROJECT["dependencies"] if re.match(r"torch(vision)?\b", one)]
    arguments = dict(words[0].split("=", 1) for words in instructions("ARG"))
    assert set(arguments["EXTRAS"].split(",")) <= PROJECT["optional-dependencies"].keys()
    assert f"Programming Language :: Python :: {arguments['PYTHON']}" in PROJECT["classifiers"]


def test_it_runs_as_no_root_and_a_user_of_any_number_has_a_cache() -> None:
    (user,) = instructions("USER")
    assert int(user[0]) >= 1000
    assert list(PROJECT["scripts"]) == ["odis"]
    assert LINES[-2:] == ['ENTRYPOINT ["odis"]', 'CMD ["--help"]']
    (made,) = [words for words in instructions("RUN") if "useradd" in words]
    assert made[made.index("--uid") + 1] == user[0]
    assert made[made.index("/cache") - 1] == "1777"

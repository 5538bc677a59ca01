"""The scripts of the study import each other by name, as scripts beside each other do."""

import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "benchmarks" / "evidence"


@pytest.fixture(autouse=True, scope="package")
def _scripts_on_the_path():
    sys.path.insert(0, str(SCRIPTS))
    yield
    sys.path.remove(str(SCRIPTS))

"""That compiled functions are what the functions are, where code can be kept on disk and where it cannot."""

import importlib
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core.registry import CPUDispatcher

import odis
from odis.machine import compiled as module
from odis.machine.compiled import compiled


def total(values: np.ndarray) -> float:
    """A sum one after the other."""
    result = 0.0
    for value in values:
        result += value
    return result


@pytest.mark.parametrize("reorder", [False, True])
def test_a_compiled_function_gives_what_it_gave(reorder: bool) -> None:
    values = np.random.default_rng(0).random(1000)
    fast = compiled(reorder=reorder)(total)
    assert fast(values) == pytest.approx(total(values), rel=1e-12)
    assert reorder or fast(values) == total(values)
    assert fast.__doc__ == total.__doc__
    assert np.isnan(fast(np.array([1.0, np.nan])))
    assert fast(np.array([1.0, np.inf])) == np.inf


def test_code_that_cannot_be_kept_is_compiled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: object):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return numba.njit(**options)

    monkeypatch.setattr(module, "njit", refuse)
    assert compiled()(total)(np.ones(3)) == 3.0


USERS = [p for p in Path(odis.__file__).parent.rglob("*.py") if "@compiled(" in p.read_text()]


@pytest.mark.parametrize("path", USERS, ids=lambda p: p.stem)
def test_compiled_functions_call_only_those_of_their_file(path: Path) -> None:
    """What is kept on disk does not see that another file has changed."""
    name = ".".join(path.relative_to(Path(odis.__file__).parents[1]).with_suffix("").parts)
    values = vars(importlib.import_module(name))
    functions = [f for f in values.values() if isinstance(f, CPUDispatcher) and f.py_func.__module__ == name]
    assert functions
    for function in functions:
        for called in function.py_func.__code__.co_names:
            other = values.get(called)
            assert not isinstance(other, CPUDispatcher) or other.py_func.__module__ == name, called

"""Old names of settings: every one has a successor that exists, and stored settings are read under it."""

from dataclasses import fields, is_dataclass

import pytest

from odis.config.renamed import NAMES, REPLACED, VALUES, new_spelling, translate
from odis.config.training import PretrainConfig, as_dict

SETTINGS = {
    f"{section.name}.{field.name}"
    for section in fields(PretrainConfig)
    if is_dataclass(value := getattr(PretrainConfig(), section.name))
    for field in fields(value)
}


def test_old_names_are_gone_and_their_successors_are_settings() -> None:
    assert not (NAMES.keys() | REPLACED.keys()) & SETTINGS
    assert {*NAMES.values(), *VALUES} <= SETTINGS
    assert {text.split()[0] for text in REPLACED.values()} <= SETTINGS


@pytest.mark.parametrize(
    ("name", "value", "now"),
    [
        ("views.grey", 0.2, "views.grayscale"),
        ("loss.centring", "centre", "loss.centering center"),
        ("loss.centring", "sinkhorn", "loss.centering"),
        ("loss.centering", "centre", "loss.centering center"),
        ("loss.centering", "center", None),
        ("views.grayscale", 0.2, None),
        ("views.nonsense", None, None),
    ],
)
def test_what_a_setting_is_now(name: str, value: object, now: str | None) -> None:
    assert new_spelling(name, value) == now


def test_stored_settings_are_read_under_their_new_names() -> None:
    now = as_dict(PretrainConfig())
    old = as_dict(PretrainConfig())
    for name, to in NAMES.items():
        section, key = name.split(".")
        old[section][key] = old[section].pop(to.split(".")[1])
    old["loss"]["centring"] = "centre"
    found, changes = translate(old)
    assert found == now
    assert len(changes) == len(NAMES)
    assert "views.solarise is now views.solarize" in changes
    assert "loss.centring is now loss.centering center" in changes


def test_settings_of_today_stay_as_they_are() -> None:
    now = as_dict(PretrainConfig())
    assert translate(now) == (now, [])


def test_a_setting_without_a_counterpart_is_dropped_and_named_if_it_was_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(REPLACED, "loader.shelf", "loader.workers 4")
    monkeypatch.setitem(REPLACED, "loader.board", "loader.workers 5")
    found, changes = translate({"loader": {"shelf": True, "board": 0.0, "workers": 2}, "data": "x"})
    assert found == {"loader": {"workers": 2}, "data": "x"}
    assert changes == ["loader.shelf is now loader.workers 4"]

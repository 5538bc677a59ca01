"""`odis index auto` takes the format of every layout that the mutation tests make."""

from pathlib import Path

import pytest

from odis.errors import DataError
from odis.objects.sources import FORMATS
from odis.objects.sources.recognise import recognise, recognised


def test_every_layout_is_recognised(tmp_path: Path) -> None:
    from fuzz.exports import ALL_SETS

    wrong = {}
    for name, one in ALL_SETS.items():
        root = tmp_path / name
        root.mkdir()
        one.make(root)
        found = [candidate.form for candidate in recognise(root)]
        both = ["voc", "label-maps"] if name in ("label-maps", "label-maps-cvat") else [one.form]
        if found not in ([one.form], both):
            wrong[name] = found
    assert wrong == {}
    assert {one.form for one in ALL_SETS.values()} == FORMATS.keys()


def test_two_that_fit_are_named_with_the_commands(tmp_path: Path) -> None:
    from fuzz.exports import coco_panoptic, labelme, voc_masks

    labelme(tmp_path)
    voc_masks(tmp_path)
    with pytest.raises(DataError) as error:
        recognised(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: fits voc (Annotations/a.xml) and labelme (c.json); choose one: odis index voc "
        f"{tmp_path} or "
        f"odis index labelme {tmp_path}"
    )
    coco_panoptic(tmp_path)
    assert [one.form for one in recognise(tmp_path)] == ["coco-panoptic", "voc", "labelme"]

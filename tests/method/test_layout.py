"""Positions of tokens against the tokens themselves, listed by name."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from odis.kernels.packed_tokens import PackedTokens
from odis.method.layout import SelectedRows, TokenLayout

CPU = torch.device("cpu")


def named(layout: TokenLayout, views: int) -> list[str]:
    """Every token of all views, by name, in the order of the module's docstring."""
    names = []
    for view in range(views):
        first = ["image"] if layout.class_token else []
        if layout.kind == "single" and layout.queries:
            first = ["object 0"]
        registers = [f"register {k}" for k in range(layout.prefix - int(layout.class_token))]
        patches = [f"patch {k}" for k in range(layout.patches)]
        behind = [f"object {k}" for k in range(layout.queries)] if layout.kind != "single" else []
        names += [f"{view}: {name}" for name in first + registers + patches + behind]
    return names


layouts = st.one_of(
    st.builds(
        lambda registers, patches, queries: TokenLayout("single", True, 1 + registers, patches, queries),
        st.integers(0, 3),
        st.integers(1, 6),
        st.integers(0, 1),
    ),
    st.builds(
        lambda cls, registers, patches, queries: TokenLayout(
            "read-only", cls, int(cls) + registers, patches, queries
        ),
        st.booleans(),
        st.integers(0, 3),
        st.integers(1, 6),
        st.integers(0, 4),
    ),
    st.builds(
        lambda cls, registers, patches, queries: TokenLayout(
            "beside", cls, int(cls) + registers, patches, queries
        ),
        st.booleans(),
        st.integers(0, 3),
        st.integers(1, 6),
        st.integers(0, 1),
    ),
)


@given(layouts, st.integers(1, 4), st.data())
def test_rows_name_the_tokens_that_are_asked_for(layout: TokenLayout, views: int, data: st.DataObject):
    names = named(layout, views)
    assert len(names) == views * layout.tokens
    objects = (
        data.draw(st.lists(st.integers(0, views * layout.queries - 1), unique=True)) if layout.queries else []
    )
    patches = data.draw(st.lists(st.integers(0, views * layout.patches - 1)))
    found = SelectedRows(
        layout.class_rows(views, CPU) if layout.class_token else torch.zeros(0, dtype=torch.int64),
        layout.object_rows(torch.tensor(objects, dtype=torch.int64)),
        layout.patch_rows(torch.tensor(patches, dtype=torch.int64)),
    )
    first = "object 0" if layout.kind == "single" and layout.queries else "image"
    expected = [f"{view}: {first}" for view in range(views)] if layout.class_token else []
    expected += [f"{o // layout.queries}: object {o % layout.queries}" for o in objects]
    expected += [f"{p // layout.patches}: patch {p % layout.patches}" for p in patches]
    assert [names[row] for row in found.stacked().tolist()] == expected
    image, of_objects, of_patches = found.split(found.stacked()[:, None])
    assert torch.equal(image[:, 0], found.image)
    assert torch.equal(of_objects[:, 0], found.objects)
    assert torch.equal(of_patches[:, 0], found.patches)


@given(layouts)
def test_slices_hold_all_tokens_of_a_kind(layout: TokenLayout):
    names = named(layout, 1)
    assert names[layout.patch_slice] == [f"0: patch {k}" for k in range(layout.patches)]
    assert names[layout.object_slice] == [f"0: object {k}" for k in range(layout.queries)]


@given(layouts, st.booleans())
def test_summaries_are_the_tokens_that_are_no_patch(layout: TokenLayout, image: bool):
    image = image and layout.class_token
    names = named(layout, 1)
    found = [names[k] for k in layout.summary_positions(image, CPU).tolist()]
    expected = ["0: image"] if image and not (layout.kind == "single" and layout.queries) else []
    assert found == expected + [f"0: object {k}" for k in range(layout.queries)]


@pytest.mark.parametrize("kept", [[], [2], [0, 1, 5], [5, 0]])
def test_packed_tokens_come_back_and_others_are_zeros(kept: list[int]):
    x = torch.arange(1, 1 + 3 * 5 * 2.0).view(3, 5, 2)  # 3 context tokens and 2 objects a view
    packed = PackedTokens(3, 3, 2, torch.tensor(kept, dtype=torch.int64))
    tokens = packed.pack(x)
    assert tokens.shape == (9 + len(kept), 2)
    expected = x.clone()
    for k in range(6):
        if k not in kept:
            expected[k // 2, 3 + k % 2] = 0
    assert torch.equal(packed.unpack(tokens), expected)
    views = packed.of_views(torch.arange(3.0)[:, None])[:, 0].tolist()
    assert views == [0, 0, 0, 1, 1, 1, 2, 2, 2, *(k // 2 for k in kept)]

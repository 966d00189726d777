"""A tree of dataclasses, written as gin text, resolves to an equal tree."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caml.config.resolve import load
from caml.config.write import write


@dataclasses.dataclass(frozen=True)
class Leaf:
    text: str
    number: float = 1.5
    count: int | None = None
    anything: Any = None
    mixed: float | int | str | None = None


@dataclasses.dataclass(frozen=True)
class Twig:
    leaf: Leaf | None
    leaves: tuple[Leaf, ...] = ()
    named: dict[str, Leaf] = dataclasses.field(default_factory=dict)
    flag: bool = False


@dataclasses.dataclass(frozen=True)
class Tree:
    leaf: Leaf
    twigs: list[Twig]
    pair: tuple[int, str] = (0, "")
    inner: "Tree | None" = None


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(max_size=8) | st.sampled_from(
    ["'", '"', "'''\"", "\\", "\n\t", "%A", "@b()", "é\u2028", "\ud800"]
)
PLAIN = st.none() | st.booleans() | st.integers() | NUMBERS | TEXTS
ANYTHING = st.recursive(
    PLAIN,
    lambda part: st.lists(part, max_size=3) | st.dictionaries(TEXTS, part, max_size=2) | st.tuples(part),
)
MIXED = st.none() | st.integers() | NUMBERS | TEXTS
LEAVES = st.builds(Leaf, TEXTS, NUMBERS, st.none() | st.integers(), ANYTHING, MIXED)
TWIGS = st.builds(
    Twig,
    st.none() | LEAVES,
    st.lists(LEAVES, max_size=2).map(tuple),
    st.dictionaries(TEXTS, LEAVES, max_size=2),
    st.booleans(),
)
TREES = st.builds(Tree, LEAVES, st.lists(TWIGS, max_size=2), st.tuples(st.integers(), TEXTS), st.none())
TREES = st.builds(dataclasses.replace, TREES, inner=st.none() | TREES)


@settings(max_examples=50, deadline=None)
@given(tree=TREES)
def test_what_is_written_resolves_to_an_equal_tree(
    tree: Tree, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "tree.gin"
    path.write_text(write(tree), encoding="utf-8", newline="")
    loaded = load(path, [Leaf, Twig, Tree], Tree)
    assert loaded.tree == tree
    assert repr(loaded.tree) == repr(tree)  # == does not tell 1 from 1.0 or True
    assert list(loaded.unread()) == []


def test_each_object_has_a_scope_named_after_its_place() -> None:
    tree = Tree(Leaf("a"), [Twig(None), Twig(Leaf("b"))])
    text = write(tree).splitlines()
    assert "Tree.twigs = [@twigs_0/Twig(), @twigs_1/Twig()]" in text
    assert "twigs_1/leaf/Leaf.text = 'b'" in text
    assert "twigs_1/leaf/Leaf.number = 1.5" in text


@pytest.mark.parametrize(
    "value", [float("nan"), float("-inf"), {1, 2}, len, b"bytes", [float("nan")], {(1, 2): 3}]
)
def test_a_value_that_gin_text_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match=r"leaf/anything.*cannot hold"):
        write(Tree(Leaf("a", anything=value), []))


def test_a_written_tree_can_be_read_where_nothing_else_is(tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    path = tmp_path / "alone" / "cell.gin"
    path.write_text(write(Tree(Leaf("x"), [])))
    assert load(path, [Leaf, Twig, Tree], Tree).tree == Tree(Leaf("x"), [])

"""Gin files as they are written: includes, syntax, and where each binding stands."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caml.config import files
from caml.config.errors import UserError
from caml.config.files import Macro, Reference, read


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(text: str | bytes, name: str = "a.gin") -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return name


def keys_and_places(path: str) -> list[tuple[str, str]]:
    return [(binding.key, binding.place) for binding in read(path)]


def test_every_binding_has_its_key_value_and_line() -> None:
    found = read(
        written("# head\nA = 1\n\ns/t/C.x = {\n  'k': [%A, @u/D()],\n}  # tail\nC:\n  y = -2.5\n  z = None\n")
    )
    assert [(b.key, b.value, b.place) for b in found] == [
        ("A", 1, "a.gin:2"),
        ("s/t/C.x", {"k": [Macro("A"), Reference("u", "D", True)]}, "a.gin:4"),
        ("C.y", -2.5, "a.gin:8"),
        ("C.z", None, "a.gin:9"),
    ]


def test_includes_are_read_in_place_relative_to_their_file_and_once() -> None:
    written("include 'deep/c.gin'\nB = 1\n", "lib/b.gin")
    written("C = 1\n", "lib/deep/c.gin")
    written("A = 1\ninclude 'lib/b.gin'\ninclude 'lib/deep/c.gin'\nB = 2\n")
    assert keys_and_places("a.gin") == [
        ("A", "a.gin:1"),
        ("C", "lib/deep/c.gin:1"),
        ("B", "lib/b.gin:2"),
        ("B", "a.gin:4"),
    ]
    assert [binding.own for binding in read("a.gin")] == [True, False, False, True]


def test_an_include_that_no_neighbour_holds_is_found_beside_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written("L = 1\n", "library/gin/base.gin")
    monkeypatch.setattr(files, "LIBRARY", tmp_path / "library")
    assert keys_and_places(written("include 'gin/base.gin'\n", "far/away/a.gin")) == [
        ("L", "library/gin/base.gin:1")
    ]


@pytest.mark.parametrize(
    "text, message",
    [
        ("A = 1\ninclude 'b.gin'\n", "a.gin:2: include 'b.gin': no such file beside a.gin or in "),
        ("include 'a.gin'\n", "a.gin:1: include 'a.gin': this file includes itself, by way of a.gin"),
        ("include 'folder'\n", "a.gin:1: include 'folder': is a directory"),
        ("include 'latin.gin'\n", "a.gin:1: include 'latin.gin': not UTF-8 text (byte 5)"),
        ("A = 1\nimport os\n", "a.gin:2: import os: caml brings its own classes; delete this line"),
        ("A = 1\nB = 2\nA = 3\n", "a.gin:3: A = 3: bound already in a.gin:1; keep one of the two"),
        ("C:\n  x = 1\nC.x = 2\n", "a.gin:3: C.x = 2: bound already in a.gin:2; keep one of the two"),
        ("A = 1\nB = {'k': 1, 'k': 2}\n", "a.gin:2: B = {...}: the key 'k' stands twice in one dictionary"),
        ("B = {(1, 2): 2}\n", "a.gin:1: B = {...}: the key (1, 2) is neither text nor a number"),
        ("A = 1\nB = (1,\n", "a.gin:2: B = (1,: a bracket or a string is not closed after here"),
        ("A = 1\n\nB = big\n", "a.gin:3: B = big: big is no value; text needs quotes, numbers are finite"),
        ("A = nan\n", "a.gin:1: A = nan: nan is no value; text needs quotes, numbers are finite"),
        ("A = 'x\n", "a.gin:1: A = 'x: "),  # what is said of it differs between versions of Python
        (
            "A = {\n 'x': [1,\n 2\nB = 3\n",
            "a.gin:4: B = 3: Expected ',' or ']'; the [ of line 2 is not closed before",
        ),
        ("A = [1,\n 2]]\nB = 3\n", "a.gin:2: 2]]: Expected newline"),
        ("A = 1 2\n", "a.gin:1: A = 1 2: Expected newline"),
        ("A\n", "a.gin:1: A: Couldn't parse statement, expected ':' or '='"),
    ],
)  # fmt: skip
def test_a_bad_file_ends_in_one_line(text: str, message: str) -> None:
    Path("folder").mkdir()
    written("T = '\xe9'".encode("latin-1"), "latin.gin")
    with pytest.raises(UserError) as caught:
        read(written(text))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_circle_of_includes_names_the_line_that_closes_it() -> None:
    written("A = 1\ninclude 'b.gin'\n")
    written("B = 1\n\ninclude 'a.gin'\n", "b.gin")
    with pytest.raises(
        UserError, match=r"^b\.gin:3: include 'a\.gin': this file includes itself, by way of b\.gin$"
    ):
        read("a.gin")


def test_a_missing_include_names_the_nearest_file() -> None:
    written("B = 1\n", "base.gin")
    with pytest.raises(UserError, match=r"^a\.gin:1: include 'bose\.gin': .*did you mean base\.gin\?"):
        read(written("include 'bose.gin'\n"))


def test_a_file_that_cannot_be_read_is_named() -> None:
    written("A = 1\n", "quickstart.gin")
    Path("folder.gin").mkdir()
    written(b"\xff\xfe\x00", "binary.gin")
    for path, message in {
        "quikstart.gin": "no such file (did you mean quickstart.gin?)",
        "nowhere/a.gin": "no such file",
        "folder.gin": "is a directory",
        "binary.gin": "not UTF-8 text (byte 0)",
    }.items():
        with pytest.raises(UserError) as caught:
            read(path)
        assert str(caught.value) == f"{path}: {message}; give the path of a gin file"


PIECES = [
    "A",
    "B.c",
    "s/B.c",
    "=",
    " = ",
    "1",
    "-",
    "'x'",
    '"',
    "%A",
    "@",
    "@B()",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
]
PIECES += [
    ":",
    ",",
    "\n",
    "\n  ",
    "#",
    "include",
    "import",
    "from",
    "nan",
    "\\",
    "\t",
    "\0",
    "é",
    ".",
    "/",
    "None",
]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
def test_no_text_ends_in_anything_but_bindings_or_one_line(text: str) -> None:
    path = written(text, "any.gin")
    try:
        read(path)
    except UserError as error:
        assert "\n" not in str(error)
        assert str(error).startswith("any.gin:")

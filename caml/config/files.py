"""Gin files as they are written: every binding, macro and include, with its file and line."""

import difflib
import io
import re
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gin import config_parser

import caml
from caml.config.errors import UserError

# Files that no neighbour holds are looked for beside the package: the root of a checkout.
LIBRARY = Path(caml.__file__).resolve().parent.parent


@dataclass(frozen=True)
class Reference:
    """`@scope/Name()` in a value; `called` is False where the parentheses are missing."""

    scope: str
    name: str
    called: bool

    def __repr__(self) -> str:
        return f"@{self.scope}{'/' if self.scope else ''}{self.name}{'()' if self.called else ''}"


@dataclass(frozen=True)
class Macro:
    """`%NAME` in a value."""

    name: str

    def __repr__(self) -> str:
        return f"%{self.name}"


REQUIRED = Macro("gin.REQUIRED")


@dataclass(frozen=True)
class Binding:
    """`scope/configurable.parameter = value`, or `parameter = value` for a macro (`configurable` is '')."""

    scope: str
    configurable: str
    parameter: str
    value: Any
    place: str  # FILE:LINE, or --set
    own: bool  # in the file that was asked for, not in one that it includes
    lines: Mapping[tuple[Any, ...], int] = field(default_factory=dict)  # of dictionary keys in the value

    @property
    def key(self) -> str:
        """The left side, as gin writes it."""
        scope = f"{self.scope}/" if self.scope else ""
        return f"{scope}{self.configurable}.{self.parameter}" if self.configurable else self.parameter

    def place_of(self, path: tuple[Any, ...]) -> str:
        """FILE:LINE of what `path` leads to inside the value, as far as dictionary keys tell."""
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.place.rpartition(':')[0]}:{self.lines[path]}" if path else self.place

    def error(self, message: str, path: tuple[Any, ...] = ()) -> UserError:
        """The one line that ends a command because of this binding, or of what `path` leads to inside it."""
        if self.place == "--set":
            return UserError(f"--set {self.key}={show(self.value)}: {message}")
        return UserError(f"{self.place_of(path)}: {self.key} = {show(self.value)}: {message}")


def read(path: str | Path) -> list[Binding]:
    """All bindings of the gin file at `path` and of what it includes, in the order in which they take effect.

    An include is looked for beside the file that names it, then at the root of the checkout (beside the
    package); a file counts once, where it is first included. Raises UserError, with file and line, for a
    file that cannot be read, a missing or circular include, an import, a syntax error, and a parameter
    that is bound twice in one file.
    """
    path = Path(path)
    problem = _unreadable(path)
    if problem:
        raise UserError(f"{path}: {problem}; give the path of a gin file")
    return list(_statements(path, [], set()))


def references(value: Any) -> Iterator[Reference | Macro]:
    """Every reference and macro inside a parsed value."""
    if isinstance(value, (Reference, Macro)):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from references(key)
            yield from references(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from references(item)


def setting(text: str) -> Binding:
    """The binding that `--set MACRO=VALUE` makes: VALUE is a gin value, or a bare word taken as text."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not config_parser.MODULE_RE.match(name) or "." in name:
        raise UserError(f"--set {text}: not MACRO=VALUE; write for example --set RATIO=0.1")
    if "\n" in value:
        raise UserError(f"--set {text}: several lines; repeat --set for each macro")
    return Binding("", "", name, _setting_value(value, text), "--set", True)


def show(value: Any, limit: int = 80) -> str:
    """A value on one line, cut to `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def suggest(name: str, known: Iterable[str], called: Mapping[str, str] | None = None) -> str:
    """' (did you mean NAME?)' where a known name is close to `name`, in whatever case, else nothing.

    `called` says how a known name is written where that is not the name itself.
    """
    names = {other.lower(): other for other in sorted(known, reverse=True)} | {
        other: other for other in known
    }
    close = difflib.get_close_matches(name, names, n=1) or difflib.get_close_matches(name.lower(), names, n=1)
    if not close:
        return ""
    found = names[close[0]]
    return f" (did you mean {called[found] if called else found}?)"


def _setting_value(value: str, text: str) -> Any:
    parser = None
    try:
        parser = _Parser(value, _Delegate())
        parsed = _plain(parser.parse_value(), {})
        if parser.current_token.type in (tokenize.NEWLINE, tokenize.ENDMARKER):
            return parsed
    except (SyntaxError, tokenize.TokenError, StopIteration):
        pass  # Not a gin value: a word, or nothing that can be read.
    except _BadKey as error:
        raise UserError(f"--set {text}: {error}") from None
    if re.fullmatch(r"[\w./:+~-]+", value):
        return value
    raise UserError(f"--set {text}: {value or 'nothing'} is no gin value; text with blanks needs quotes")


class _Delegate(config_parser.ParserDelegate):
    """Keeps references as plain data: names are checked, with their lines, before gin sees them."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        scope, _, name = scoped_configurable_name.rpartition("/")
        return Reference(scope, name, evaluate)

    def macro(self, macro_name: str) -> Macro:
        return Macro(macro_name)


class _Key:
    """A dictionary key that equals no other, so that a repeated key is still there after parsing."""

    def __init__(self, key: Any, line: int):
        self.key = key
        self.line = line


class _BadKey(Exception):
    """A dictionary key that stands twice, or is neither text nor a number."""


class _Parser(config_parser.ConfigParser):
    """Gin's parser, which alone would silently keep the last of two equal keys of a dictionary."""

    def _parse_dict_item(self) -> tuple[_Key, Any]:
        line = self.current_token.start[0]
        key, value = super()._parse_dict_item()
        return _Key(key, line), value


def _plain(value: Any, lines: dict[tuple[Any, ...], int], path: tuple[Any, ...] = ()) -> Any:
    """A parsed value with its dictionary keys unwrapped, their lines put into `lines`; raises _BadKey."""
    if isinstance(value, dict):
        plain: dict[Any, Any] = {}
        for wrapped, item in value.items():
            key = wrapped.key
            if not isinstance(key, (str, int, float)):
                raise _BadKey(f"the key {show(key)} is neither text nor a number")
            if key in plain:
                raise _BadKey(f"the key {key!r} stands twice in one dictionary; keep one")
            lines[(*path, key)] = wrapped.line
            plain[key] = _plain(item, lines, (*path, key))
        return plain
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item, lines, (*path, i)) for i, item in enumerate(value))
    return value


def _statements(path: Path, outer: list[Path], seen: set[Path]) -> Iterator[Binding]:
    """The bindings of one file, with those of its includes in place."""
    text, name = path.read_text(encoding="utf-8-sig"), shown(path)
    seen.add(path.resolve())
    first: dict[str, str] = {}
    for statement in _parse(text, name):
        place = f"{name}:{statement.location.line_num}"
        if isinstance(statement, config_parser.IncludeStatement):
            included = _included(statement.filename, path, place, [*outer, path.resolve()])
            if included.resolve() not in seen:
                yield from _statements(included, [*outer, path.resolve()], seen)
        elif isinstance(statement, config_parser.ImportStatement):
            raise UserError(f"{place}: {statement.format()}: caml brings its own classes; delete this line")
        elif isinstance(statement, config_parser.BindingStatement):
            scope, configurable, parameter = statement.scope, statement.selector, statement.arg_name
            if not parameter:
                scope, configurable, parameter = "", "", f"{scope}/{configurable}" if scope else configurable
            lines: dict[tuple[Any, ...], int] = {}
            try:
                value = _plain(statement.value, lines)
            except _BadKey as error:
                raise UserError(f"{place}: {parameter} = {{...}}: {error}") from None
            binding = Binding(scope, configurable, parameter, value, place, not outer, lines)
            if binding.key in first:
                raise binding.error(f"bound already in {first[binding.key]}; keep one of the two")
            first[binding.key] = place
            yield binding


def _parse(text: str, name: str) -> Iterator[Any]:
    """Gin's own statements of `text`; its syntax errors become one line."""
    start = 1
    try:
        parser = _Parser(io.StringIO(text), _Delegate())
        while statement := parser.parse_statement():
            yield statement
            start = parser.current_token.start[0]
    except (SyntaxError, ValueError) as error:  # ValueError: a null byte
        line, message = getattr(error, "lineno", None) or start, str(getattr(error, "msg", error))
    except (tokenize.TokenError, StopIteration, RecursionError):
        line, message = start, "a bracket or a string is not closed after here"
    else:
        return
    if "Failed to parse token" in message:
        token = message.rsplit("'", 2)[1]
        message = f"{token} is no value; text needs quotes, numbers are finite, flags are True or False"
    elif message in ("Unexpected token.", "Unable to parse value."):
        message = f"{message[:-1].lower()}; a line is NAME = VALUE, and text stands in quotes"
    opened = _open_bracket(text.splitlines()[start - 1 : line - 1])
    if opened:
        message = f"{message.rstrip('.')}; the {opened[0]} of line {start + opened[1]} is not closed before"
    content = "".join(c if c.isprintable() else "?" for c in [*text.splitlines(), "", ""][line - 1].strip())
    raise UserError(f"{name}:{line}: {content[:80]}: {message.splitlines()[0].rstrip('.')}") from None


def _open_bracket(lines: list[str]) -> tuple[str, int] | None:
    """The last bracket that `lines` open and do not close, and in which of them it stands."""
    left: list[tuple[str, int]] = []
    try:
        for token in tokenize.generate_tokens(iter([f"{line}\n" for line in lines]).__next__):
            if token.string in ("(", "[", "{"):
                left.append((token.string, token.start[0] - 1))
            elif token.string in (")", "]", "}") and left:
                left.pop()
    except (tokenize.TokenError, SyntaxError):
        pass  # the lines end inside of it
    return left[-1] if left else None


def _included(name: str, including: Path, place: str, outer: list[Path]) -> Path:
    """The file that `include 'name'` in `including` means."""
    candidates = [including.parent / name, LIBRARY / name]
    for candidate in candidates:
        if candidate.resolve() in outer:
            raise UserError(
                f"{place}: include '{name}': this file includes itself, by way of {including.name}"
            )
        if candidate.exists():
            problem = _unreadable(candidate)
            if problem:
                raise UserError(f"{place}: include '{name}': {problem}")
            return candidate
    here = {path.name for path in including.parent.glob("*.gin")}
    there = {str(path.relative_to(LIBRARY)) for path in (LIBRARY / name).parent.glob("*.gin")}
    raise UserError(
        f"{place}: include '{name}': no such file beside {including.name} or in {shown(LIBRARY)}"
        f"{suggest(name, here | there)}"
    )


def _unreadable(path: Path) -> str:
    """Why the file at `path` cannot be read; empty where it can."""
    if path.is_dir():
        return "is a directory"
    try:
        path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = [p.name for p in path.parent.glob("*.gin")] if path.parent.is_dir() else []
        return f"no such file{suggest(path.name, near)}"
    except UnicodeDecodeError as error:
        return f"not UTF-8 text (byte {error.start})"
    except (OSError, ValueError) as error:
        return f"cannot be read ({getattr(error, 'strerror', None) or error})"
    return ""


def shown(path: Path) -> str:
    """`path` relative to the working directory where it lies below it."""
    path = path.resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)

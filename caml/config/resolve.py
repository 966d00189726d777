"""A gin file resolved to frozen dataclasses, strictly: the only place that touches gin's registry.

gin injects once, at the root; nothing else is decorated. Around it stand the checks that gin 0.5.0 leaves
out, and for every value the file and line that set it.
"""

import contextlib
import copy
import dataclasses
import functools
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gin
from gin import config as gin_config

from caml.config import checks, files
from caml.config.bindings import Bindings, Node
from caml.config.errors import Invalid, UserError
from caml.config.files import Binding, Macro, Reference, show


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a configured dataclass came from: its scope, and the macros that were bound from outside."""

    instance: Any
    scope: str
    macros: Mapping[str, Any]


def load(
    path: str | Path,
    classes: Sequence[type],
    root: type,
    settings: Sequence[str] = (),
    axes: str | None = None,
) -> "Loaded":
    """Read the gin file at `path`, with each of `settings` (`MACRO=VALUE`) bound on top.

    `classes` are the dataclasses that the file may configure, `root` the one that is injected. `axes` is the
    field of the root that names macros and the values they take (a dictionary, or a list of them): a setting
    of such a macro is kept apart in `Loaded.restrictions`. Raises UserError for everything that is wrong
    with the text itself; a wrong value is found when `tree` or `at` injects it.
    """
    bindings = files.read(path)
    named: dict[str, Binding] = {}
    for binding in map(files.setting, settings):
        if binding.parameter in named:
            raise binding.error(
                f"{binding.parameter} is set twice; name it once (an axis takes a list of values)"
            )
        named[binding.parameter] = binding
    loaded = Loaded(Path(path), classes, root, bindings, list(named.values()), axes)
    varied = [name for name in named if name in loaded.axes_macros()]
    if not varied:
        return loaded
    kept = [binding for name, binding in named.items() if name not in varied]
    restrictions = {name: loaded.macro(name) for name in varied}
    return Loaded(Path(path), classes, root, bindings, kept, axes, restrictions)


class Loaded:
    """A gin file whose names are right, to be injected as often as there are cells."""

    def __init__(
        self,
        path: Path,
        classes: Sequence[type],
        root: type,
        bindings: Sequence[Binding],
        settings: Sequence[Binding],
        axes: str | None = None,
        restrictions: Mapping[str, Any] | None = None,
    ):
        self.path = path
        self.classes = {cls.__name__: cls for cls in classes}
        self.root = root
        self.restrictions: Mapping[str, Any] = restrictions or {}
        self._axes = axes
        self.text = Bindings(bindings, settings, self.classes)
        self.text.refuse_unknown_names(files.shown(path))
        self.text.refuse_circles(root.__name__)
        self.text.refuse_misplaced_objects()
        self.text.refuse_dead_macros()
        self._built: set[Node] = set()
        self._origins: dict[int, Origin] = {}
        self._outside: Mapping[str, Any] = {}
        self._problem: UserError | None = None

    # What the file says

    @functools.cached_property
    def tree(self) -> Any:
        """The root dataclass, every macro at the value that the files and settings give it.

        A macro that they leave open (%gin.REQUIRED) has the first value that an axis gives it.
        """
        given = [item for product in self._products() for item in product.items() if item[0] in self.macros]
        first = {name: values[0] for name, values in reversed(given) if values}
        return self.at({name: value for name, value in first.items() if self.macro(name) is checks.REQUIRED})

    @property
    def macros(self) -> dict[str, Binding]:
        """The binding of every macro, by name."""
        return self.text.macros

    def at(self, macros: Mapping[str, Any], field: str | None = None) -> Any:
        """The root dataclass (or one field of it) with `macros` bound to these values instead.

        Raises UserError, naming file, line and value, for a value that its field cannot take.
        """
        with self._injection(macros):
            if field is None:
                return gin.get_configurable(self.root.__name__)()
            name = self.root.__name__
            bound = self.text.bound.get(("", name, field))
            if bound:
                return self._fitted("", name, field, copy.deepcopy(_injectable(bound.value)))
            self._refuse_missing(self.root, "", (field,), ())
            return checks.default(self.root, field)

    def macro(self, name: str) -> Any:
        """The value that the files and settings give a macro; `checks.REQUIRED` where they leave it open."""
        with self._injection({}):
            return copy.deepcopy(_injectable(Macro(name)))

    def axes_macros(self) -> set[str]:
        """The macros that the axes name; empty without axes."""
        return {name for product in self._products() for name in product}

    def _products(self) -> list[dict[str, list[Any]]]:
        axes = self.at({}, self._axes) if self._axes else {}
        return axes if isinstance(axes, list) else [axes]

    def axes_binding(self) -> Binding:
        """The line that binds the axes."""
        return self._find(f"{self.root.__name__}.{self._axes}")

    def axis_place(self, macro: str, holding: Any) -> str:
        """FILE:LINE where the axes give `macro` the value or the list of values `holding`."""
        axes = self.axes_binding()
        paths = [path for path in axes.lines if path[-1] == macro]
        for path in paths:
            values, _ = _descend(axes.value, path)
            if values == holding or (isinstance(values, (list, tuple)) and holding in values):
                return axes.place_of(path)
        return axes.place_of(paths[0] if paths else ())

    def scopes(self, cls: str) -> list[str]:
        """The scopes in which a `cls` is built at the file's own macros."""
        self.tree  # noqa: B018  builds what has not been built yet
        return sorted(scope for scope, name in self._built if name == cls)

    def as_written(self) -> "Loaded":
        """The same file without settings, apart from those that fill a macro that has no value in it."""
        written = self.text.written
        empty = {b.parameter for b in written if not b.configurable and b.value == files.REQUIRED}
        settings = [b for b in self.text.settings if b.parameter in empty]
        return Loaded(self.path, list(self.classes.values()), self.root, written, settings, self._axes)

    @property
    def arguments(self) -> str:
        """The file and its settings as a command line takes them."""
        told = [f"{b.parameter}={show(b.value, 1000)}" for b in self.text.settings if not b.configurable]
        told += [f"{name}={show(value, 1000)}" for name, value in self.restrictions.items()]
        return " ".join(
            [shlex.quote(files.shown(self.path)), *(f"--set {shlex.quote(text)}" for text in told)]
        )

    def bound(self, cls: str, field: str, value: Any) -> "Loaded":
        """The same with `field` of every `cls` that no scope tells otherwise bound to `value`, as by a setting."""
        settings = [*self.text.settings, Binding("", cls, field, value, "--set", True)]
        classes = list(self.classes.values())
        return Loaded(
            self.path, classes, self.root, self.text.written, settings, self._axes, self.restrictions
        )

    # Where it says it

    def where(self, key: str) -> str:
        """FILE:LINE of the binding of a macro or of `scope/Class.param`."""
        return self._find(key).place

    def error(self, key: str, message: str) -> UserError:
        """The line that ends a command because of a macro or of `scope/Class.param`."""
        return self._find(key).error(message)

    def fault(self, message: str, *of: tuple[Any, str]) -> UserError:
        """The line that ends a command because of a field of a dataclass that was injected here.

        `of`: that dataclass and field, and others without which it would be possible. The first that the file's
        own lines, its axes or a setting give is named.
        """
        sites = []
        for instance, field in of:
            origin = self.origin(instance)
            if origin:
                sites.append(self._site(type(instance).__name__, origin.scope, field, origin.macros))
        return _blamed(sites).error(message)

    def origin(self, instance: Any) -> Origin | None:
        """Where a dataclass came from; None for one that is the default of a field and was not injected."""
        return self._origins.get(id(instance))

    def forget(self) -> None:
        """Begin anew to note which lines injections read."""
        self._built.clear()

    def unread(self) -> Iterator[tuple[Binding, UserError]]:
        """Settings, and bindings of the file's own, that no injection since `forget` read; with the error."""
        return self.text.unread(self._built)

    # Injection

    @contextlib.contextmanager
    def _injection(self, macros: Mapping[str, Any]) -> Iterator[None]:
        """gin's state as it is to be while values are made with `macros` bound from outside."""
        given = {name: self._as_given(name, value) for name, value in macros.items()}
        _activate(self)
        for name in self._outside.keys() - macros.keys():
            gin.bind_parameter((name, "gin.macro", "value"), _injectable(self.macros[name].value))
        for name, value in given.items():
            gin.bind_parameter((name, "gin.macro", "value"), value)
        self._outside, self._problem = dict(macros), None
        try:
            yield
        except UserError:
            assert self._problem  # gin has wrapped it in an exception with a longer text
            raise self._problem from None

    def _as_given(self, name: str, value: Any) -> Any:
        """What gin hands on for a macro: an object that an axis refers to is built anew, of all that is bound then."""
        for built, written in self._axis_objects.get(name, ()) if _has_object(value) else ():
            if built == value:
                return _injectable(written)
        return _Fixed(value)

    @functools.cached_property
    def _axis_objects(self) -> dict[str, list[tuple[Any, Any]]]:
        """By macro, the values of its axes that refer to objects: as built at the file's macros, and as written."""
        found: dict[str, list[tuple[Any, Any]]] = {}
        axes = self.text.bound.get(("", self.root.__name__, self._axes or ""))
        written = axes.value if axes else {}
        for product, raw in zip(
            self._products(), written if isinstance(written, list) else [written], strict=True
        ):
            for name, values in product.items() if isinstance(raw, dict) else ():
                if isinstance(raw[name], (list, tuple)):
                    pairs = zip(values, raw[name], strict=True)
                    found.setdefault(name, []).extend(pair for pair in pairs if files.references(pair[1]))
        return found

    def _builder(self, cls: type) -> Callable[..., Any]:
        """What gin calls in place of the class: it sees the scope, checks the values and builds the value."""

        def build(**values: Any) -> Any:
            scope, name = gin.current_scope_str(), cls.__name__
            self._built.add((scope, name))
            fitted = {field: self._fitted(scope, name, field, value) for field, value in values.items()}
            self._refuse_missing(cls, scope, checks.required(cls), fitted)
            try:
                instance = cls(**fitted)
            except Invalid as invalid:
                sites = [self._site(name, scope, field) for field in invalid.fields]
                raise self._fail(_blamed(sites).error(invalid.message)) from None
            self._origins[id(instance)] = Origin(instance, scope, self._outside)
            return instance

        return build

    def _fitted(self, scope: str, cls: str, field: str, value: Any) -> Any:
        try:
            return checks.fit(value, checks.annotations(self.classes[cls])[field])
        except checks.Misfit as misfit:
            site = self._site(cls, scope, field, path=misfit.path)
            raise self._fail(site.error(misfit.message)) from None

    def _refuse_missing(self, cls: type, scope: str, fields: Sequence[str], bound: Collection[str]) -> None:
        for field in fields:
            if field in checks.required(cls) and field not in bound:
                wanted = checks.describe(checks.annotations(cls)[field])
                scopes = {b.scope for b in self.text.written if b.configurable == cls.__name__}
                near = files.suggest(scope, scopes - {""}) if scope not in scopes else ""
                site = self._site(cls.__name__, scope, field)
                raise self._fail(site.error(f"not bound; it takes {wanted}{near}"))

    def _fail(self, problem: UserError) -> UserError:
        self._problem = problem
        return problem

    # Locations

    def _find(self, key: str) -> Binding:
        scope, _, rest = key.rpartition("/")
        cls, _, parameter = rest.rpartition(".")
        binding = self.text.bound.get((scope, cls, parameter) if cls else ("", "", key))
        if binding is None:
            # A default that no line overrides: the line that asks for the object, or the top of the file.
            return self._asking(cls, scope, parameter, checks.default(self.classes[cls], parameter))
        return binding

    def _asking(self, cls: str, scope: str, field: str, value: Any) -> Binding:
        """A binding for a value that no line sets, placed where the object is referred to."""
        place = f"{files.shown(self.path)}:1"
        for wanted in ("", scope):
            for binding in self.text.bound.values():
                if Reference(wanted, cls, True) in files.references(binding.value):
                    place = binding.place
                    if place == "--set":
                        place = f"--set {binding.parameter}={show(binding.value)}"
        return Binding(scope, cls, field, value, place, own=False)

    def _site(
        self,
        cls: str,
        scope: str,
        field: str,
        macros: Mapping[str, Any] | None = None,
        path: tuple[Any, ...] = (),
    ) -> "_Site":
        """The line that set `field`: through macros, to an axis where that bound the macro."""
        macros = self._outside if macros is None else macros
        binding = self.text.winner(scope, cls, field)
        if binding is None:
            if field in checks.required(self.classes[cls]):
                asking = self._asking(cls, scope, field, None)
                return _Site(False, False, functools.partial(_line, f"{asking.place}: {asking.key}"))
            asking = self._asking(cls, scope, field, checks.default(self.classes[cls], field))
            return _Site(False, False, lambda message: asking.error(f"(the default) {message}"))
        direct = binding
        while True:
            inside = path
            value, path = _descend(binding.value, path)
            if not isinstance(value, Macro) or value == files.REQUIRED:
                break
            if value.name in macros and self._axes:
                name, given = value.name, macros[value.name]
                line = f"{self.axis_place(name, given)}: {name} = {_named_value(given)}: {cls}.{field}"
                own = self.axes_binding().own
                return _Site(own, False, functools.partial(_line, line))
            binding = self.macros[value.name]
        of = "" if binding is direct else f"{cls}.{field}: "
        setting = binding.place == "--set"
        return _Site(binding.own, setting, lambda message: binding.error(f"{of}{message}", inside))


def _line(place: str, message: str) -> UserError:
    return UserError(f"{place}: {message}")


@dataclasses.dataclass(frozen=True)
class _Site:
    """A line that set a value, and whether it is one of the file that was asked for, or a setting."""

    own: bool
    setting: bool
    error: Callable[[str], UserError]


def _blamed(sites: Sequence[_Site]) -> _Site:
    """The first of `sites` that is a setting; else the first that is the file's own; else the first of all."""
    return max(sites, key=lambda site: (site.setting, site.own))


def _descend(value: Any, path: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """Follow `path` into a parsed value as far as it is written out; a macro stops it."""
    while path and isinstance(value, (list, tuple, dict)):
        try:
            value = value[path[0]]
        except (KeyError, IndexError):
            return value, ()
        path = path[1:]
    return value, path


def _named_value(value: Any) -> str:
    """A value for a message: a configured dataclass by its name, where it has one."""
    return str(getattr(value, "name", "")) or show(value) if dataclasses.is_dataclass(value) else show(value)


def _has_object(value: Any) -> bool:
    """Whether a value is an object or a sequence with one in it."""
    if isinstance(value, (list, tuple)):
        return any(map(_has_object, value))
    return dataclasses.is_dataclass(value)


class _Fixed:
    """A value that gin hands on as it is, where it would copy it."""

    def __init__(self, value: Any):
        self.value = value

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self.value


def _injectable(value: Any) -> Any:
    """A parsed value with gin's own references in it."""
    if value == files.REQUIRED:
        return checks.REQUIRED
    if isinstance(value, Macro):
        return gin_config.ConfigurableReference(f"{value.name}/gin.macro", True)
    if isinstance(value, Reference):
        scope = f"{value.scope}/" if value.scope else ""
        return gin_config.ConfigurableReference(f"{scope}{value.name}", True)
    if isinstance(value, dict):
        return {key: _injectable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_injectable(item) for item in value)
    return value


_active: Loaded | None = None  # gin's registry and configuration are global; this says whose they are.


def _activate(loaded: Loaded) -> None:
    """Make gin's global state that of `loaded` and of nothing else."""
    global _active
    if _active is loaded:
        return
    gin.clear_config()
    for name in _active.classes if _active else ():
        configurable = gin_config._REGISTRY.pop(f"caml.{name}")
        del gin_config._INVERSE_REGISTRY[configurable.wrapped]
    for name, cls in loaded.classes.items():
        gin.external_configurable(loaded._builder(cls), name=name, module="caml")
    _active = loaded
    loaded._outside = {}
    for binding in loaded.text.bound.values():
        key = (binding.scope, binding.configurable, binding.parameter)
        if not binding.configurable:
            key = (binding.parameter, "gin.macro", "value")
        gin.bind_parameter(key, _injectable(binding.value))

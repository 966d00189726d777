"""The bindings of a gin file and its includes as one whole: which one wins, and which should not be there."""

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from caml.config import checks, files
from caml.config.errors import UserError
from caml.config.files import Binding, Macro, Reference, suggest
from caml.config.fingerprint import is_runtime

Node = tuple[str, str]  # (scope, class name); a macro is (its name, '')
Key = tuple[str, str, str]  # (scope, class name, parameter); a macro is ('', '', its name)


class Bindings:
    """What a file binds, and what settings bind on top of it."""

    def __init__(self, written: Sequence[Binding], settings: Sequence[Binding], classes: Mapping[str, type]):
        self.written = list(written)
        self.settings = list(settings)
        self.classes = classes
        # A later binding of the same key replaces an earlier one, in the order of the text.
        self.bound: dict[Key, Binding] = {_key(b): b for b in (*written, *settings)}
        self.macros = {b.parameter: b for b in self.bound.values() if not b.configurable}

    def winner(self, scope: str, cls: str, field: str) -> Binding | None:
        """The binding that sets `field` of a `cls` built in `scope`: the one with the longest scope."""
        parts = scope.split("/") if scope else []
        for length in range(len(parts), -1, -1):
            binding = self.bound.get(("/".join(parts[:length]), cls, field))
            if binding:
                return binding
        return None

    def replaced_by(self, winner: Binding) -> list[Binding]:
        """The bindings that would hold in the place of `winner`: earlier ones, and those of outer scopes."""
        _, cls, parameter = _key(winner)
        same = [
            b for b in (*self.written, *self.settings) if (b.configurable, b.parameter) == (cls, parameter)
        ]
        outer = [b for b in same if f"{winner.scope}/".startswith(f"{b.scope}/") or not b.scope]
        return sorted((b for b in outer if b is not winner), key=lambda b: len(b.scope))

    def refuse_unknown_names(self, file: str) -> None:
        """Raise UserError for a class, parameter or macro that does not exist, with the nearest that does."""
        macros = {b.parameter for b in self.written if not b.configurable}
        for binding in self.settings:
            if not binding.configurable and binding.parameter not in macros:
                near = suggest(binding.parameter, macros)
                raise binding.error(f"{file} has no macro {binding.parameter}{near}")
        for binding in (*self.written, *self.settings):
            if binding.configurable:
                self._refuse_unknown_class(binding.configurable, binding)
                names = checks.annotations(self.classes[binding.configurable])
                if binding.parameter not in names:
                    near = suggest(binding.parameter, names)
                    raise binding.error(f"{binding.configurable} has no parameter {binding.parameter}{near}")
            for reference in files.references(binding.value):
                if isinstance(reference, Reference):
                    self._refuse_unknown_class(reference.name, binding)
                    if not reference.called:
                        raise binding.error(f"{reference} needs parentheses: {reference}()")
                elif (
                    reference.name not in macros
                    and reference != files.REQUIRED
                    and self.bound[_key(binding)] is binding  # else nothing reads it
                ):
                    near = suggest(reference.name, macros)
                    own = "" if binding.own else "; bind it in a file that includes this one"
                    raise binding.error(f"there is no macro {reference.name}{near}{own}")

    def refuse_misplaced_objects(self) -> None:
        """Raise UserError for a field of one class that is bound to an object of another, macros followed."""
        for binding in self.bound.values():
            given = binding
            while isinstance(given.value, Macro) and given.value != files.REQUIRED:
                given = self.macros[given.value.name]
            if not binding.configurable or not isinstance(given.value, Reference):
                continue
            wanted = checks.annotations(self.classes[binding.configurable])[binding.parameter]
            found = self.classes[given.value.name]
            if (
                dataclasses.is_dataclass(wanted)
                and isinstance(wanted, type)
                and not issubclass(found, wanted)
            ):
                of = "" if given is binding else f"{binding.key}: "
                raise given.error(f"{of}@{wanted.__name__}() belongs here")

    def _refuse_unknown_class(self, name: str, binding: Binding) -> None:
        if name not in self.classes:
            written = {
                b.scope: f"{b.scope}/{b.configurable}" for b in self.written if b.scope and b.configurable
            }
            near = suggest(name, written, written) or suggest(name, self.classes)
            if name.replace(".", "/") in {f"{b.scope}/{b.configurable}" for b in self.written}:
                near = f" (did you mean {name.replace('.', '/')}?)"
            raise binding.error(f"there is no {name}{near}")

    def refuse_circles(self, root: str) -> None:
        """Raise UserError where a macro or an object is part of its own value."""
        done: set[Node] = set()

        def visit(node: Node, trail: tuple[Node, ...], by: Binding | None) -> None:
            if by and node in trail:
                raise by.error("leads back to itself; break the circle")
            if node in done:
                return
            for binding in self._read_at(node):
                for reference in files.references(binding.value):
                    if isinstance(reference, Macro):
                        child = (reference.name, "")
                    else:
                        child = (reference.scope or node[0], reference.name)
                    visit(child, (*trail, node), binding)
            done.add(node)

        for name in self.macros:
            visit((name, ""), (), None)
        visit(("", root), (), None)

    def altering(self) -> list[Binding]:
        """The settings that change what the file says, and not only where or how fast it runs."""
        told = [
            binding
            for binding in self.bound.values()
            if binding.configurable and not is_runtime(self.classes[binding.configurable], binding.parameter)
        ]
        read = self._followed(told)
        own = {_key(b): b.value for b in self.written}
        return [b for b in self.settings if _key(b) in read and own[_key(b)] != b.value]

    def refuse_dead_macros(self) -> None:
        """Raise UserError for a macro of the file itself that nothing refers to."""
        used = {
            reference.name
            for binding in (*self.written, *self.settings)
            for reference in files.references(binding.value)
            if isinstance(reference, Macro)
        }
        for binding in (*self.written, *self.settings):
            if binding.own and not binding.configurable and binding.parameter not in used:
                near = suggest(binding.parameter, used)
                raise binding.error(f"nothing refers to %{binding.parameter}{near}; use it or delete it")

    def unread(self, built: Collection[Node]) -> Iterator[tuple[Binding, UserError]]:
        """Bindings of the file's own, and settings, that building `built` never read, each with its error."""
        read = self._read_by(built)
        for binding in (*self.settings, *self.written):
            last = self.bound[_key(binding)]
            if binding.own and last is not binding and last not in self.settings:
                yield binding, binding.error(f"{last.place} binds it again later; delete one of the two")
            elif binding.own and _key(binding) not in read:
                yield binding, binding.error(f"no cell reads it{self._why_unread(binding, built)}")

    def _why_unread(self, binding: Binding, built: Collection[Node]) -> str:
        name = binding.configurable
        if not name:
            macro = Macro(binding.parameter)
            by = next((b for b in self.bound.values() if macro in files.references(b.value)), None)
            if by:
                return f", for none reads {by.key} in {by.place}; use it or delete it"
            was = next(b for b in self.written if macro in files.references(b.value))
            instead = self.bound[_key(was)]
            return f", for {instead.key} in {instead.place} takes the place of what read it; delete one of the two"
        scopes = sorted(scope for scope, cls in built if cls == name)
        if not scopes:
            there = f"{binding.scope}/{name}" if binding.scope else name
            return f", for none builds a {name}; refer to @{there}() or delete it"
        below = [s for s in scopes if not binding.scope or f"{s}/".startswith(f"{binding.scope}/")]
        if below:
            winner = self.winner(below[0], name, binding.parameter)
            return f", for {winner.key} in {winner.place} binds it; delete one of the two" if winner else ""
        known = " or ".join(
            f"{s}/{name}.{binding.parameter}" if s else f"{name}.{binding.parameter}" for s in scopes[:4]
        )
        return f", for {name} is built in other scopes; bind {known}"

    def _read_by(self, built: Collection[Node]) -> set[Key]:
        """The keys of all bindings that are read when `built` are built, macros included."""
        return self._followed(binding for node in built for binding in self._read_at(node))

    def _followed(self, bindings: Iterable[Binding]) -> set[Key]:
        """The keys of `bindings`, and of all macros on which their values rest."""
        read: set[Key] = set()
        todo = list(bindings)
        while todo:
            binding = todo.pop()
            if _key(binding) not in read:
                read.add(_key(binding))
                for reference in files.references(binding.value):
                    if isinstance(reference, Macro):
                        todo.extend(self._read_at((reference.name, "")))
        return read

    def _read_at(self, node: Node) -> Iterator[Binding]:
        """The bindings that are read when `node` is built."""
        scope, cls = node
        keys = checks.annotations(self.classes[cls]) if cls else ()
        found = [self.winner(scope, cls, field) for field in keys] if cls else [self.macros.get(scope)]
        return (binding for binding in found if binding)


def _key(binding: Binding) -> Key:
    return binding.scope, binding.configurable, binding.parameter

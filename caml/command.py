"""A command of caml: how it is registered, and that it ends in one line and a status, whatever goes wrong in it."""

import errno
import functools
import gc
import os
import signal
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from caml.config.errors import Failure, UserError

# What typer raises for an unknown command, an unknown option or an argument that is missing.
_UsageError: Any = typer.BadParameter.__base__


class OneLine(TyperGroup):
    """Commands of which a mistake in the command line, too, ends in one line."""

    def main(self, *args: Any, **extra: Any) -> None:
        """Run the command that the arguments name, and exit with its status."""
        try:
            status = super().main(*args, **extra | {"standalone_mode": False})
        except _UsageError as error:
            message = error.format_message()
            if "\n" in message:  # no arguments: the help
                error.show()
            else:
                of = error.ctx.command_path if error.ctx else "caml"
                stop = "" if message[-1] in ".?" else "."
                print(f"caml: {message}{stop} See `{of} --help`.", file=sys.stderr)
            status = error.exit_code
        if status == 130:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
        sys.exit(status)


def group(name: str, about: str) -> typer.Typer:
    """A group of commands, shown by its help where none is named."""
    plain: dict[str, Any] = {
        "add_completion": False,
        "pretty_exceptions_enable": False,
        "rich_markup_mode": None,
    }
    return typer.Typer(name=name, cls=OneLine, help=about, no_args_is_help=True, **plain)


def command(
    of: typer.Typer, example: str, name: str = "", resumes: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command of `of` whose help ends in `example`, and whose errors end in one line and a status.

    `name` is given where it is not the function's. `resumes`: the same command goes on from what was finished.
    """
    kept = "; what was finished is kept, and the same command goes on from there" if resumes else ""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> None:
            # As Ctrl-C does; a command that saves before it ends has handlers of its own.
            signal.signal(signal.SIGTERM, _interrupt)
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                signal.signal(signal.SIGINT, _interrupt)
            try:
                function(*args, **kwargs)
            except UserError as error:
                _end(str(error), 2)
            except Failure as error:
                _end(str(error), 1)
            except BrokenPipeError:  # whoever read what this prints has left
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise typer.Exit(1) from None
            except OSError as error:
                own = any(isinstance(x, Path) and str(x) == str(error.filename) for x in kwargs.values())
                _end(_of_disk(error, kept), 2 if own and error.errno in NO_FILE else 1)
            except MemoryError as error:
                what = str(error) or "too little is free"
                _end(f"out of memory ({what}): a smaller size, batch or population fits", 1)
            except KeyboardInterrupt:
                _end(f"interrupted{kept}", 1)
            except Exception as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                _end(f"out of memory on the device: {str(error).splitlines()[0]}", 1)

        of.command(name or function.__name__, epilog=f"Example: {example}")(called)
        return called

    return register


def _interrupt(number: int, frame: types.FrameType | None) -> None:
    """What Ctrl-C does by default; where garbage is collected, in which it would be lost, a moment later."""
    collecting = {getattr(callback, "__code__", None) for callback in gc.callbacks}
    while frame is not None:
        if frame.f_code in collecting:
            threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def _end(line: str, status: int) -> None:
    print(f"caml: {' '.join(line.split())}", file=sys.stderr, flush=True)
    raise typer.Exit(status)


# What the system says of a path that is the mistake of who named it.
NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EEXIST, errno.ENAMETOOLONG)


def _of_disk(error: OSError, kept: str) -> str:
    """What the system says, of which file, and what is to be done."""
    of = f"{error.filename}: " if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{of}{error.strerror}: make room{kept}"
    return f"{of}{error.strerror or error}"

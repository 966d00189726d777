"""The caml command with a signal to itself at a chosen moment: `dying.py WHEN SIGNAL COMMAND ...`.

WHEN is `MODULE:NAME:CALL:SIDE`, such as `caml.training.checkpoints:Checkpoints._retire:2:before`: the signal is sent
before or after call number CALL of that function. With a fifth part, as in `...:1:after:sft`, only calls of a method
count whose object has that text in one of its attributes.
"""

import functools
import importlib
import os
import signal
import sys
from typing import Any


def arm(when: str, number: int) -> None:
    """Have the function that `when` names send the signal."""
    module, name, call, side, *of = when.split(":")
    *owners, last = name.split(".")
    owner: Any = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    function = getattr(owner, last)
    calls = 0

    @functools.wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        if of and of[0] not in str(vars(args[0])):
            return function(*args, **kwargs)
        calls += 1
        if calls == int(call) and side == "before":
            os.kill(os.getpid(), number)
        result = function(*args, **kwargs)
        if calls == int(call) and side == "after":
            os.kill(os.getpid(), number)
        return result

    setattr(owner, last, counted)


# Processes that write stores import this file too.
if __name__ == "__main__":
    from caml.__main__ import main

    # A process in the background of a script comes without one.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # A module that is patched before the command has prepared the devices must not start jax: none does.
    arm(sys.argv[1], getattr(signal, f"SIG{sys.argv[2]}"))
    sys.argv = ["caml", *sys.argv[3:]]
    main()

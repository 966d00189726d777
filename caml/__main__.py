"""The `caml` command. It stands alone, so that Ctrl-C while the commands are still read ends in a line too."""

import gc
import sys


def main() -> None:
    """Run the command line."""
    # Modules are most of what there is until a command works, and no garbage. By default Python looked through all of
    # them time and again, a tenth of a small launch.
    gc.set_threshold(10_000)
    try:
        from caml.cli import app

        app()
    except KeyboardInterrupt:
        print("caml: interrupted", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()

"""The `caml` command. It stands alone, so that Ctrl-C while the commands are still read ends in a line too."""

import sys


def main() -> None:
    """Run the command line."""
    try:
        from caml.cli import app

        app()
    except KeyboardInterrupt:
        print("caml: interrupted", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()

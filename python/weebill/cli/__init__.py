"""The `weebill` command. Typer and rich are needed to run it, not to import this package."""

from __future__ import annotations

import sys

__all__ = ["main"]

# The extra of weebill that brings a module.
_EXTRAS = {
    "typer": "cli",
    "rich": "cli",
    "PIL": "cli",
    "safetensors": "cli",
    "torch": "torch",
    "kornia": "train",
    "tensorboard": "train",
}


def main() -> None:
    """Runs the command line and exits: 0 if all went well, 2 with one line on stderr if not.

    Wrong usage, files that cannot be used and missing optional packages are told in one line; only
    a mistake of the program itself ends in a traceback.
    """
    try:
        from weebill.cli._app import run

        code = run(sys.argv[1:])
    except ImportError as error:
        extra = _EXTRAS.get(error.name or "")
        if extra is None:
            raise
        print(
            f"weebill: {error.name} is needed for this and is not installed: "
            f"pip install 'weebill[{extra}]'",
            file=sys.stderr,
        )
        code = 2
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)

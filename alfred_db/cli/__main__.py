"""The process of the command, also as `python -m alfred_db.cli` where it is not on the path."""

from __future__ import annotations

import gc

from . import main

__all__ = ["run"]


def run() -> None:
    """Run the command: the entry point of its process."""
    # The models stay for as long as the process: to look for garbage while they are made takes an eighth of its start.
    gc.set_threshold(50_000, *gc.get_threshold()[1:])
    main()


if __name__ == "__main__":
    run()

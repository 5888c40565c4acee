"""`python -m alfred_db.cli`, where the command is not on the path."""

from __future__ import annotations

from . import main

if __name__ == "__main__":
    main()

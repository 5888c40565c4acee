"""The process that upgrades tenants for another one, which writes their names."""

from __future__ import annotations

from .upgrading import main

if __name__ == "__main__":
    main()

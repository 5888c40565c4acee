"""The broker's log and the entity graph on one server, published on one page. `--part 0.01` tries it with few rows."""

from __future__ import annotations

import argparse
import sys

import broker
import graph
from harness import Page, machine, one_server, publish

PAGE = Page("catalogs.md", "Benchmarks of the catalogs", "Written by `make bench-catalogs`.")


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--part", type=float, default=1.0, help="of the rows; 1 is what the targets are for")
    part = options.parse_args().part
    with one_server() as server:
        said = (
            machine(server) if part == 1 else f"{machine(server)} **Only {part:g} of the rows: no result.**"
        )
        publish(PAGE, "Machine", said)
        found = [*graph.measure(server, PAGE, part), *broker.measure(server, PAGE, part)]
    return 0 if all(target.met for target in found) else 1


if __name__ == "__main__":
    sys.exit(main())

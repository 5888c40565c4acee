"""Write down the public API: each public name with its signature, members and fields, one a line.

    python tools/api.py           write tests/unit/public_api.txt
    python tools/api.py --check   fail when it is stale

A change of a signature then shows in the diff of that file, and belongs into the CHANGELOG.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import alfred_db

TARGET = Path(__file__).parent.parent / "tests/unit/public_api.txt"


def signature(function: object) -> str:
    """The signature of a callable, with its annotations as they are written."""
    text = str(inspect.signature(function)).replace("'", "")  # type: ignore[arg-type]  # callables only
    # Types of this package that stand for the variables of a generic base, by their names alone.
    text = re.sub(r"\b(?:alfred_db(?:\.\w+)*|collections\.abc)\.(?=[A-Z])", "", text)
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def members(owner: type) -> Iterator[str]:
    """The public methods, properties and fields of a class, inherited ones of this package too."""
    if issubclass(owner, enum.Enum):
        yield from (f"{owner.__name__}.{member.name} = {member.value!r}" for member in owner)
        return
    fields = (
        {field.name: field for field in dataclasses.fields(owner)} if dataclasses.is_dataclass(owner) else {}
    )
    for name in sorted({name for name in dir(owner) if not name.startswith("_")} | fields.keys()):
        home = next((base for base in owner.__mro__ if name in vars(base)), owner)
        if name not in fields and not home.__module__.startswith("alfred_db"):
            continue
        item = inspect.getattr_static(owner, name, None)
        if name in fields:
            yield f"{owner.__name__}.{name}: {fields[name].type}"
        elif isinstance(item, property):
            yield f"{owner.__name__}.{name} (property)"
        elif isinstance(item, classmethod | staticmethod):
            yield f"{owner.__name__}.{name}{signature(getattr(owner, name))}"
        elif inspect.isfunction(item):
            kind = "async " if inspect.iscoroutinefunction(inspect.unwrap(item)) else ""
            yield f"{kind}{owner.__name__}.{name}{signature(item)}"
        else:
            annotation = home.__annotations__.get(name)
            written = getattr(annotation, "__forward_arg__", annotation)  # a named tuple wraps it
            yield f"{owner.__name__}.{name}" + ("" if written is None else f": {written}")


def lines() -> Iterator[str]:
    """The whole API."""
    for name in sorted(alfred_db.__all__):
        item = getattr(alfred_db, name)
        if "._sync." in getattr(item, "__module__", ""):
            continue  # generated, with the signatures of the async half
        if inspect.isclass(item):
            own = inspect.isfunction(vars(item).get("__init__")) or inspect.isfunction(
                vars(item).get("__new__")
            )
            yield f"class {name}" + (signature(item) if own else "")
            yield from (f"    {line}" for line in members(item))
        elif inspect.isfunction(item):
            yield f"{name}{signature(item)}"
        else:
            yield name


def main(check: bool) -> int:
    """Write the file, or compare it."""
    text = "\n".join([*lines(), ""])
    if not check:
        TARGET.write_text(text)
        return 0
    if TARGET.exists() and TARGET.read_text() == text:
        return 0
    print(f"{TARGET.name}: is stale; run `make api`, and describe the change in CHANGELOG.md")
    return 1


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))

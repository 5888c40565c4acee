"""Objects of the caller's own code, named by an option."""

from __future__ import annotations

import importlib
import os
import sys
from difflib import get_close_matches
from typing import Any

__all__ = ["named_object"]


def named_object(option: str, named: str, example: str, advice: str) -> Any:
    """Return the object that MODULE:NAME names; the module is also looked for in this folder.

    Args:
        option: The option, for messages.
        named: Its value.
        example: A right value, for messages.
        advice: What to do if the module lacks the name.

    Raises:
        ConfigurationError: The module cannot be imported, or has no such name.
    """
    from ..errors import ConfigurationError

    module_name, colon, name = named.partition(":")
    if not (module_name and colon and name):
        raise ConfigurationError(f"{option} {named!r}: expected MODULE:NAME, such as {example}")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise  # one that the module itself imports
        raise ConfigurationError(
            f"{option} {named!r}: there is no module {module_name!r}; it is looked for in {os.getcwd()} and in sys.path"
        ) from None
    found = getattr(module, name, None)
    if found is None:
        near = get_close_matches(name, [one for one in vars(module) if not one.startswith("_")], 1)
        raise ConfigurationError(
            f"{option} {named!r}: {module_name} has no {name!r}; {f'perhaps {near[0]!r} is meant' if near else advice}"
        )
    return found

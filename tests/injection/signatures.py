"""Which parameters of the public methods of every repository can carry a text."""

from __future__ import annotations

import inspect
import typing
from collections import abc
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from enum import StrEnum
from functools import cache, cached_property
from types import UnionType
from typing import Any, Literal

from numpy import ndarray

from alfred_db.repositories import UnitOfWork
from alfred_db.search.filters import Filter

Parameter = tuple[str, str, str]
"""Repository, as the unit of work names it; method; parameter."""


@cache
def repositories() -> dict[str, type]:
    """The classes of all repositories, by their names in the unit of work."""
    return {
        name: typing.get_type_hints(attribute.func)["return"]
        for name, attribute in vars(UnitOfWork).items()
        if isinstance(attribute, cached_property)
    }


def methods(repository: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name, method in inspect.getmembers(repository, inspect.isfunction):
        if not name.startswith("_"):
            yield name, method


def hints(method: Callable[..., Any]) -> dict[str, Any]:
    """The types of a method's parameters."""
    found = typing.get_type_hints(method)
    return {name: found[name] for name in inspect.signature(method).parameters if name != "self"}


def text_parameters() -> list[Parameter]:
    """Every parameter that takes text, a choice of words, JSON, or something that holds them."""
    return [
        (noun, name, parameter)
        for noun, repository in repositories().items()
        for name, method in methods(repository)
        for parameter, hint in hints(method).items()
        if carries_text(hint)
    ]


def carries_text(hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in (Any, str) or origin is Literal:
        return True
    if origin is ndarray:
        return False
    if origin is abc.Callable:
        return carries_text(arguments[-1])
    if arguments:
        return any(map(carries_text, arguments)) or (is_dataclass(origin) and carries_text(origin))
    if hint is Filter or (isinstance(hint, type) and issubclass(hint, StrEnum)):
        return True
    if typing.is_typeddict(hint) or is_dataclass(hint) or hasattr(hint, "_fields"):
        return any(carries_text(inner) for inner in typing.get_type_hints(hint).values())
    return False


def is_choice(hint: Any) -> bool:
    """Whether a parameter takes words of a fixed list only."""
    words = typing.get_args(hint) if isinstance(hint, UnionType) else (hint,)
    words = tuple(word for word in words if word not in (type(None), str))
    return all(
        typing.get_origin(word) is Literal or (isinstance(word, type) and issubclass(word, StrEnum))
        for word in words
    ) and bool(words)


def _method(name: str) -> Callable[..., Any]:
    noun, _, method = name.partition(",")[0].partition(".")
    return getattr(repositories()[noun], method)


@cache
def choices(name: str) -> list[tuple[str]]:
    """The parameters of a specimen's method that take a word of a list, or a cursor."""
    return [
        (parameter,)
        for parameter, hint in hints(_method(name)).items()
        if parameter == "after" or is_choice(hint)
    ]


@cache
def _plain(name: str) -> set[str]:
    return {parameter for parameter, hint in hints(_method(name)).items() if hint in (str, str | None)}


def plain(name: str, path: tuple[str | int, ...]) -> bool:
    """Whether this is a whole parameter that takes any text."""
    return len(path) == 1 and path[0] in _plain(name)

"""What commands print: the result for people or as JSON on standard output, all else on standard error."""

from __future__ import annotations

import json

import click

__all__ = ["as_json_text", "note", "print_result"]


def print_result(result: object, *lines: str, as_json: bool) -> None:
    """Print the result of a command.

    Args:
        result: The result, for programs.
        lines: The same for people.
        as_json: Whether to print JSON.
    """
    if as_json:
        click.echo(as_json_text(result))
        return
    for line in lines:
        click.echo(line)


def as_json_text(value: object) -> str:
    """Return a value as JSON; times and ids are texts, and a number that JSON does not have is null."""
    text = json.dumps(value, indent=2, default=str)
    if "NaN" in text or "Infinity" in text:
        text = json.dumps(json.loads(text, parse_constant=lambda _: None), indent=2)
    return text


def note(line: str) -> None:
    """Print a line that is not part of the result on standard error."""
    click.echo(line, err=True)

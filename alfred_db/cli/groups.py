"""Help that is complete: groups whose lists of commands are never cut, and an example of each command."""

from __future__ import annotations

from collections.abc import Iterator

import click

from .examples import EXAMPLES

__all__ = ["HELP", "Group", "with_examples"]

HELP = ["-h", "--help"]
"""The options that show help."""


class Group(click.Group):
    """A group of commands; its help shows the whole first sentence of each."""

    def sentences(self) -> Iterator[tuple[str, str]]:
        """Yield the names of the commands with the first sentences of their help."""
        for name, command in sorted(self.commands.items()):
            if not command.hidden:
                yield name, command.get_short_help_str(limit=1000)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands; sentences are wrapped, not cut."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self.sentences()))


def with_examples(path: str, command: click.Command) -> click.Command:
    """Show the example of each command at the end of its help, which `-h` shows too.

    Args:
        path: The words of the command after `alfred-db`.
        command: The command or group.
    """
    # A command keeps its help option from its first call, which may be one without the parents.
    command.context_settings.setdefault("help_option_names", HELP)
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            with_examples(f"{path} {name}", child)
    elif (example := EXAMPLES.get(path)) is not None:
        command.epilog = f"\b\nExample:\n  {example}"
    return command

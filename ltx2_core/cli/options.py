"""Commands of the command line from the table of options: click options, help by group, and the reference.

No torch is imported here, so that help and shell completion are quick.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import click

from ..run.options import (
    COMMANDS,
    GROUPS,
    RECIPE_ROWS,
    WITHOUT,
    Option,
    by_name,
    check_together,
    options_of,
)


class PathType(click.Path):
    """A path that has a name: empty text and a NUL, which no file system has, are refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not str(value).strip():
            self.fail("a path is missing: the text is empty", param, ctx)
        if "\0" in str(value):
            self.fail(f"{value!r} holds a NUL, which no path has", param, ctx)
        return super().convert(value, param, ctx)


TYPES: Mapping[str, click.ParamType] = {  # type: ignore[type-arg]  # generic in new versions of click only
    "int": click.INT,
    "float": click.FLOAT,
    "text": click.STRING,
    "path": PathType(path_type=Path),
}


@dataclass(frozen=True)
class Chosen:
    """The options of one call: ``explicit`` ones by name, as written, and the defaults of the others."""

    command: str
    explicit: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        """The value on the command line, else the default of the table; None if the recipe decides it."""
        if name in self.explicit:
            return self.explicit[name]
        option = by_name(name)
        if option.by_recipe:
            return None
        if option.multiple:
            return ()
        return Path(option.default) if option.kind == "path" and option.default else option.default

    def check(self, known: Mapping[str, Any] | None = None) -> None:
        """Raise ValueError for options that contradict each other; ``known`` are those of a file."""
        check_together(self.explicit, known, command=self.command)


class GroupedCommand(click.Command):
    """A command whose help lists its options under the headings of their groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section for each group; parameters outside the table come last."""
        records = {param.name: param.get_help_record(ctx) for param in self.get_params(ctx)}
        assert self.name is not None
        for group, options in groupby(options_of(self.name), key=lambda option: option.group):
            rows = [record for option in options if (record := records.pop(option.name, None))]
            with formatter.section(GROUPS[group]):
                formatter.write_dl(rows)
        with formatter.section("Other"):
            formatter.write_dl([record for record in records.values() if record])


def command(name: str) -> Callable[[Callable[[Chosen], None]], click.Command]:
    """A click command with the options that the table gives it; the function gets what was chosen."""

    def decorate(function: Callable[[Chosen], None]) -> click.Command:
        def callback(**values: Any) -> None:
            # click passes an empty tuple for a repeatable option that is absent.
            explicit = {key: value for key, value in values.items() if value is not None and value != ()}
            function(Chosen(name, explicit))

        return GroupedCommand(
            name,
            callback=callback,
            params=[_parameter(option, name) for option in options_of(name)],
            help=function.__doc__,
        )

    return decorate


def _parameter(option: Option, command: str) -> click.Option:
    """The click option; absent is None whatever the default, so that what was written is known."""
    kind = click.Choice(option.choices) if option.choices else TYPES.get(option.kind)
    return click.Option(
        [*option.flags, option.name],
        type=kind,
        is_flag=option.kind == "flag",
        multiple=option.multiple,
        metavar=option.metavar,
        # The table has the defaults; only without one here can an explicit default be told from an absent
        # option.
        default=None,
        required=option.required,
        callback=lambda ctx, param, value: _checked(option, value, ctx, param),
        help=_help(option, command),
    )


def _checked(option: Option, value: Any, ctx: click.Context, param: click.Parameter) -> Any:
    """What was written for ``option``. Raises a usage error with the flag for what it does not take."""
    # click takes an explicit default of None for a value.
    if value is None and option.required:
        raise click.MissingParameter(ctx=ctx, param=param)
    try:
        for one in value if option.multiple else (value,):
            if one is not None and option.kind != "path":
                option.read(one, option.flag + " ")
            if isinstance(one, str) and not one.strip() and not option.empty:
                raise ValueError(f"{option.flag} is empty: write {option.allowed}, or leave it out")
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    return value


def _help(option: Option, command: str) -> str:
    default = option.default_text(command)
    # A bracket without a number of its own would be read as a default of click.
    return f"{option.help}  [default: {default}]" if default else option.help


def reference_markdown() -> str:
    """The reference of the sampling commands for the docs: a table of options for each, and the recipes."""
    return "\n".join([*_command_tables(), *_recipe_table()]) + "\n"


def _command_tables() -> Iterator[str]:
    for name in COMMANDS:
        yield f"## `ltx2 {name}`\n"
        for group, options in groupby(options_of(name), key=lambda option: option.group):
            yield f"### {GROUPS[group]}\n"
            yield "| Option | Values | Default | Meaning |\n|---|---|---|---|"
            for option in options:
                cells = (
                    ", ".join(f"`{flag}`" for flag in option.flags),
                    _values(option),
                    option.default_text(name),
                    option.help,
                )
                yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
            yield ""
        yield from _lacking(name)


def _lacking(name: str) -> Iterator[str]:
    """The options that a command lacks, by reason."""
    reasons = WITHOUT.get(name, {})
    for reason in dict.fromkeys(reasons.values()):
        flags = sorted(by_name(option).flag for option, why in reasons.items() if why == reason)
        yield f"Without {', '.join(f'`{flag}`' for flag in flags)}: {reason}.\n"


def _values(option: Option) -> str:
    if option.choices:
        return ", ".join(f"`{choice}`" for choice in option.choices)
    low, high = option.range
    first = "above" if option.above else "from"
    bounds = [f"{first} {low:.20g}" if low is not None else "", f"to {high:.20g}" if high is not None else ""]
    words = [option.metavar or option.kind, *filter(None, bounds), option.unit]
    return " ".join(word for word in words if word)


def _recipe_table() -> Iterator[str]:
    yield "## Recipes\n"
    yield "Values that the checkpoint decides where an option is absent.\n"
    header, *rows = RECIPE_ROWS
    yield "| " + " | ".join(header) + " |"
    yield "|---" * len(header) + "|"
    yield from ("| " + " | ".join(row) + " |" for row in rows)

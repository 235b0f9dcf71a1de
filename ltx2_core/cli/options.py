"""Makes click commands from the table of options: parameters, help by group, and the reference in the docs.

No torch is imported here, so that help and shell completion are quick.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
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
from ..run.options.option import number_text
from .errors import ending


class PathType(click.Path):
    """The click type of paths, which refuses empty text and text with a NUL character."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        # Path takes an empty text for the current folder.
        if not str(value).strip():
            self.fail("a path is missing: the text is empty", param, ctx)
        if "\0" in str(value):
            self.fail(f"{value!r} holds a NUL, which no path has", param, ctx)
        return super().convert(value, param, ctx)


class NumberOrWord(click.ParamType):  # type: ignore[type-arg]  # generic in new versions of click only
    """The click type of an option that is a number or one of ``words``, such as "auto"."""

    name = "float"

    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value in self.words else click.FLOAT.convert(value, param, ctx)


TYPES: Mapping[str, click.ParamType] = {  # type: ignore[type-arg]  # generic in new versions of click only
    "int": click.INT,
    "float": click.FLOAT,
    "text": click.STRING,
    "path": PathType(path_type=Path),
}


@dataclass(frozen=True)
class Chosen:
    """The options of one call of a command.

    ``explicit`` has the values that the user wrote, by option name. ``chosen[name]`` is the value that the
    user wrote, else the one in ``found``, or else the default of the option. ``found`` are files of the
    released model that the user named, which have no effect on a run that does not need them.
    """

    command: str
    explicit: Mapping[str, Any]
    found: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        """The value of option ``name`` that the user wrote, else its default.

        The default is None if the recipe of the checkpoint decides it, and () for options that may be
        repeated.
        """
        if name in self.explicit:
            return self.explicit[name]
        if name in self.found:
            return self.found[name]
        option = by_name(name)
        if option.by_recipe:
            return None
        if option.multiple:
            return ()
        return Path(option.default) if option.kind == "path" and option.default else option.default

    def check(self, known: Mapping[str, Any] | None = None) -> None:
        """Raise ValueError if options contradict each other, or one lacks another that it needs.

        ``known`` are the settings stored in the file of ``--from-file``; None without that option.
        """
        check_together(self.explicit, known, command=self.command)


class GroupedCommand(click.Command):
    """A click command whose help lists the options group by group, each under a heading."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section for each group of options, and at the end one for all other parameters."""
        # click makes the records, so that metavars and flags look as in other commands.
        records = {param.name: param.get_help_record(ctx) for param in self.get_params(ctx)}
        assert self.name is not None
        for group, options in groupby(options_of(self.name), key=lambda option: option.group):
            rows = [record for option in options if (record := records.pop(option.name, None))]
            with formatter.section(GROUPS[group]):
                formatter.write_dl(rows)
        with formatter.section("Other"):
            # What remains is --help, which click adds by itself.
            formatter.write_dl([record for record in records.values() if record])


def command(name: str, *, argument: str | None = None) -> Callable[[Callable[[Chosen], None]], click.Command]:
    """A decorator that makes a click command from a function of one argument, the options of the call.

    ``name`` is the command's name; the table of options decides which options it has. ``argument`` is the
    name of an option with a path that may also be written without its flag; None is no option.
    """

    def decorate(function: Callable[[Chosen], None]) -> click.Command:
        def callback(**values: Any) -> None:
            if argument is not None and (path := values.pop(_BARE)) is not None:
                if values[argument] is not None:
                    raise click.UsageError(f"{by_name(argument).flag} and {path} name two files: give one")
                values[argument] = path
            # click passes an empty tuple for a repeatable option that is absent.
            explicit = {key: value for key, value in values.items() if value is not None and value != ()}
            try:
                # A copy, because commands take options out of theirs.
                function(_with_released(name, dict(explicit)))
            except (ValueError, OSError) as error:
                # A reader such as head that has ended closes the pipe, which click handles itself.
                if isinstance(error, BrokenPipeError):
                    raise
                raise ending(error, explicit, name) from error

        params: list[click.Parameter] = [_parameter(option, name) for option in options_of(name)]
        if argument is not None:
            shown = f"[{by_name(argument).flag[2:].upper()}]"
            params.append(click.Argument([_BARE], required=False, type=TYPES["path"], metavar=shown))
        return GroupedCommand(name, callback=callback, params=params, help=function.__doc__)

    return decorate


def _with_released(command: str, explicit: dict[str, Any]) -> Chosen:
    """The options of a call, in which ``--model`` is replaced by the files of the released model.

    Raises ValueError for a name that is none, and beside a checkpoint, FileNotFoundError for missing files.
    """
    name = explicit.pop("released", None)
    if name is None:
        return Chosen(command, explicit)
    from ..released.folders import paths_of
    from ..released.table import model_of

    if "checkpoints" in explicit:
        raise ValueError(f"--model {name} and --checkpoint name two models: give one of them")
    try:
        model = model_of(name)
        paths = paths_of(model)
    except (ValueError, OSError) as error:
        raise type(error)(f"--model {name}: {error}") from None
    names = {option.name for option in options_of(command)}
    explicit["checkpoints"] = tuple(paths[file] for file in model.checkpoints)
    if "text_encoder" in names:
        explicit.setdefault("text_encoder", paths[model.text_encoder])
    if model.distilled and "distilled" in names:
        explicit.setdefault("distilled", True)
    return Chosen(command, explicit, {"upscaler": paths[model.upscaler]} if model.upscaler in paths else {})


_BARE = "bare_path"
"""Name of the click parameter for a path that is written without a flag."""


def _parameter(option: Option, command: str) -> click.Option:
    """Make the click option of the command ``command`` for ``option``, an entry of the table of options.

    click is told no default, so that an option which the user wrote can be told from one that was left out.
    """
    kind = click.Choice(option.choices) if option.choices else TYPES.get(option.kind)
    if option.words:
        kind = NumberOrWord(option.words)
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
    """Return ``value`` if ``option`` allows it; raises click's usage error that names the flag if not.

    ``ctx`` and ``param`` are click's, for the error. The value of an option that is left out, None, is
    returned unchanged, but a required option must not be left out.
    """
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
    text = option.help_text(command)
    return f"{text}  [default: {default}]" if default else text


def reference_markdown() -> str:
    """Markdown for the docs: the option tables of all sampling commands, then the table of recipes."""
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
                    option.help_text(name),
                )
                yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
            yield ""
        yield from _lacking(name)


def _lacking(name: str) -> Iterator[str]:
    """Yield sentences that say which options the command called ``name`` does not have, and why."""
    reasons = WITHOUT.get(name, {})
    for reason in dict.fromkeys(reasons.values()):
        flags = sorted(by_name(option).flag for option, why in reasons.items() if why == reason)
        yield f"Without {', '.join(f'`{flag}`' for flag in flags)}: {reason}.\n"


def _values(option: Option) -> str:
    if option.choices:
        return ", ".join(f"`{choice}`" for choice in option.choices)
    low, high = option.range
    first = "above" if option.above else "from"
    bounds = [
        "" if low is None else f"{first} {number_text(low)}",
        "" if high is None else f"to {number_text(high)}",
    ]
    words = [option.metavar or option.kind, *filter(None, bounds), option.unit]
    return " ".join(word for word in words if word)


def _recipe_table() -> Iterator[str]:
    yield "## Recipes\n"
    yield "Values that the checkpoint decides where an option is absent.\n"
    header, *rows = RECIPE_ROWS
    yield "| " + " | ".join(header) + " |"
    yield "|---" * len(header) + "|"
    yield from ("| " + " | ".join(row) + " |" for row in rows)

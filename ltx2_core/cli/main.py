"""The command ``ltx2``. A subcommand is imported when it is called, so that ``ltx2 --help`` is instant."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from .errors import ending
from .stopping import stopping

SUBCOMMANDS = {
    "generate": (
        "ltx2_core.cli.generate:generate",
        "Generate a video with audio from text, images or audio.",
    ),
    "extend": ("ltx2_core.cli.edit:extend", "Extend a video, frames and audio."),
    "retake": ("ltx2_core.cli.edit:retake", "Regenerate parts of a video and preserve the rest."),
    "sound": ("ltx2_core.cli.edit:sound", "Generate audio for a video, or audio alone."),
    "dub": ("ltx2_core.cli.edit:dub", "Dub a video: new speech in its voice, lips that follow."),
    "hdr": ("ltx2_core.cli.edit:hdr", "Make an HDR clip of an SDR video."),
    "interpolate": (
        "ltx2_core.cli.interpolate:interpolate",
        "Double the frame rate of a video; its audio is copied.",
    ),
    "long": ("ltx2_core.cli.long:long", "Generate a clip of any length, window by window."),
    "shots": ("ltx2_core.cli.shots:shots", "Check a shot list, or convert a timeline of another tool."),
    "prompt": ("ltx2_core.cli.prompt:prompt", "Build a prompt from named parts, and list words for them."),
    "plan": ("ltx2_core.cli.memory_plan:plan", "Show what a clip needs in memory, and how it would fit."),
    "inspect": ("ltx2_core.cli.inspect:inspect", "Show what a model file contains."),
    "convert": (
        "ltx2_core.cli.convert:convert",
        "Rewrite a model in one file, in split files, or in fp8.",
    ),
    "make-tiny": (
        "ltx2_core.cli.make_tiny:make_tiny",
        "Write a tiny random model set to try and test.",
    ),
    "models": ("ltx2_core.cli.models:models", "List, download and check released models; copy the tiny set."),
    "dataset": ("ltx2_core.cli.dataset:dataset", "Check and encode clips and captions for training."),
    "train": ("ltx2_core.cli.train:train", "Train a LoRA, all weights, or the tiny LTX-2 that ships."),
    "lora": ("ltx2_core.cli.lora:lora", "Merge, extract, resize, look into and compare LoRA files."),
    "serve": ("ltx2_core.cli.serve:serve", "Serve models over HTTP, with a queue that survives a restart."),
    "batch": ("ltx2_core.cli.batch:batch", "Run a file of jobs, one on each line, and resume it."),
    "doctor": ("ltx2_core.cli.doctor:doctor", "Check this machine and its installation."),
}
"""Name of a subcommand -> (module:function, its line in the help)."""


class LazyGroup(click.Group):
    """A click group that lists its subcommands from a table and imports only the one that is called."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command.

        A signal or an error of the user ends it with one line and an exit code, no traceback.
        """
        try:
            with stopping():
                return super().invoke(ctx)
        except (ValueError, OSError) as error:
            # A reader such as head that has ended closes the pipe, which click handles itself.
            if isinstance(error, BrokenPipeError):
                raise
            raise ending(error) from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        # In the order of the table, where click sorts by name: generate is what a new user looks for.
        return list(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in SUBCOMMANDS:
            return None
        module, name = SUBCOMMANDS[cmd_name][0].split(":")
        # Imported when it is used: torch takes seconds, which --help should not cost.
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # click would import each command for its first line of help.
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in SUBCOMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="comfyui-ltx2")
def main() -> None:
    """LTX-2: video with synchronised audio from text, images and audio.

    Exit codes: 0 done; 1 the run failed, or doctor found something to repair; 2 the request was refused: an
    option, a file or a combination of them is wrong; 130 and 143 interrupted, by Ctrl+C and by SIGTERM.
    """


if __name__ == "__main__":
    main()

"""The command ``ltx2 doctor``: prints what is installed, what does not work, and how to repair it."""

from __future__ import annotations

import sys

import click

from .environment import Fact, examine

MARKS = {"ok": "ok", "note": "note", "problem": "PROBLEM"}


@click.command()
def doctor() -> None:
    """Check this installation. Exits with 1 where something has to be repaired."""
    facts: list[Fact] = []
    for fact in examine():
        click.echo(f"{MARKS[fact.state]:<8}{fact.name:<20}{fact.text}")
        facts.append(fact)
    problems = sum(fact.state == "problem" for fact in facts)
    if problems:
        click.echo(f"\n{problems} to repair; see the lines marked PROBLEM")
        sys.exit(1)
    click.echo("\neverything needed is installed")

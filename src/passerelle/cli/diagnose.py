"""``passerelle diagnose``: name what limits a running gateway."""

from __future__ import annotations

from typing import Any

import click

from passerelle.cli.admin_client import admin_option, request_admin
from passerelle.cli.support import print_json
from passerelle.config.models.addresses import Address


@click.command(short_help="Name what limits a running gateway.")
@click.option(
    "--seconds", metavar="N", type=click.IntRange(1, 60), default=10, help="Judge the last N seconds; 10 by default."
)
@admin_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def diagnose(seconds: int, admin: Address | str | None, as_json: bool) -> None:
    """Name what limits a running gateway, with the evidence and the next step.

    The causes are ranked, the most likely one first. The gateway measures all the time, so the verdict is immediate.
    """
    found = request_admin(admin, "GET", f"/diagnose?seconds={seconds}")
    if as_json:
        print_json(found)
        return
    for number, verdict in enumerate(found["verdicts"], 1):
        click.echo(f"{number}. {verdict['text']}")
        for line in _details(verdict):
            click.echo(f"   {line}")


def _details(verdict: dict[str, Any]) -> list[str]:
    lines = [f"next: {verdict['next_step']}"]
    if verdict["estimate"] is not None:
        lines.append(f"estimate: {verdict['estimate']}")
    numbers = "  ".join(f"{key}={_number(value)}" for key, value in verdict["evidence"].items())
    return [*lines, f"confidence {verdict['confidence'] * 100:.0f} %  {numbers}"]


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)

"""``passerelle shadow``: how the responses of a second service differ, of a running gateway."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import click

from passerelle.cli import completing
from passerelle.cli.admin_client import admin_option, read_admin, send_change
from passerelle.cli.support import Commands, json_option, print_json, print_table
from passerelle.config.models.addresses import Address


@click.group(cls=Commands, short_help="Show how the responses of a second service differ.")
def shadow() -> None:
    """Show how the responses of a second service differ from those that clients receive (see `shadow` of a route)."""


@shadow.command(short_help="Report the differences.")
@click.argument("route", required=False, shell_complete=completing.routes)
@click.option(
    "--html", metavar="FILE", type=click.Path(dir_okay=False), help="Write the report to FILE, as a web page."
)
@admin_option
@json_option
def report(route: str | None, html: str | None, admin: Address | str | None, as_json: bool) -> None:
    """Report the differences of ROUTE, such as /user/{id}, or of all routes with a shadow.

    Exits with 1 if responses differ, requests failed, or nothing was compared yet.
    """
    if html is not None and as_json:
        raise click.UsageError("--html and --json exclude each other")
    routes: dict[str, Any] = read_admin(admin, "/shadow", route=route)["routes"]
    if as_json:
        print_json({"routes": routes})
    elif html is not None:
        try:
            Path(html).write_text(_page(routes), encoding="utf-8")
        except OSError as error:
            raise click.ClickException(f"cannot write {html}: {error.strerror}") from error
        click.echo(f"wrote {html}")
    else:
        for number, (name, found) in enumerate(routes.items()):
            click.echo("\n" * (number > 0) + f"{name}: {found['verdict']}")
            _print_details(found)
        if not routes:
            click.echo("no route has a shadow")
    is_same = bool(routes) and all(_is_same(found) for found in routes.values())
    click.get_current_context().exit(0 if is_same else 1)


@shadow.command(short_help="Begin to count again.")
@admin_option
@json_option
def reset(admin: Address | str | None, as_json: bool) -> None:
    """Begin to count again, on all routes. After a change of the second service, old differences would count on."""
    send_change(admin, "/shadow/reset", as_json)


def _is_same(found: dict[str, Any]) -> bool:
    return bool(found["compared"]) and not found["differing"] and not found["failed"]


def _print_details(found: dict[str, Any]) -> None:
    for line in _counts(found):
        click.echo(f"  {line}")
    rows = [
        [each["path"] or "(whole)", each["kind"], str(each["times"]), "noise" if each["noise"] else "", _example(each)]
        for each in found["findings"]
    ]
    if rows:
        print_table(["path", "difference", "times", "", "example"], rows)


def _counts(found: dict[str, Any]) -> list[str]:
    """Return the lines between the verdict and the table."""
    lines = [f"{found['sent']} sent, {found['compared']} compared, {found['controls']} controls"]
    for title, key in (("not compared", "not_compared"), ("dropped", "dropped"), ("failed", "failed")):
        if found[key]:
            lines.append(f"{title}: " + ", ".join(f"{count} {reason}" for reason, count in found[key].items()))
    old, new = found["latency"]["old"], found["latency"]["new"]
    if old["p50"] is not None and new["p50"] is not None:
        times = [f"{name} {old[name] * 1000:.1f} -> {new[name] * 1000:.1f} ms" for name in ("p50", "p95", "p99")]
        lines.append("time to the first byte: " + ", ".join(times))
    return lines


def _example(finding: dict[str, Any]) -> str:
    if not finding["examples"]:
        return ""
    example = finding["examples"][0]
    return f"{example['old']} -> {example['new']}"


_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100%; margin: 1rem 0 }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8884; vertical-align: top }
td:nth-child(3) { text-align: right }
code { font: .9em ui-monospace, monospace; overflow-wrap: anywhere }
tr.noise { opacity: .6 }
"""


def _page(routes: dict[str, Any]) -> str:
    """Write the report as one page that loads nothing."""
    parts = []
    for name, found in routes.items():
        parts.append(f"<h2><code>{escape(name)}</code></h2><p><strong>{escape(found['verdict'])}</strong></p>")
        parts.append("<p>" + "<br>".join(escape(line) for line in _counts(found)) + "</p>")
        rows = []
        for each in found["findings"]:
            cells = [f"<code>{escape(each['path'] or '(whole)')}</code>", escape(each["kind"]), str(each["times"])]
            cells += ["noise" if each["noise"] else "", f"<code>{escape(_example(each))}</code>"]
            style = ' class="noise"' if each["noise"] else ""
            rows.append(f"<tr{style}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
        if rows:
            head = "<tr><th>path</th><th>difference</th><th>times</th><th></th><th>example</th></tr>"
            parts.append(f"<table>{head}{''.join(rows)}</table>")
    body = "".join(parts) or "<p>No route has a shadow.</p>"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>Shadow report</title>'
        f"<style>{_STYLE}</style></head><body><h1>Shadow report</h1>{body}</body></html>\n"
    )

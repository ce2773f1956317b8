"""``streamflow token``: the settings hold a hash, and whoever asks has the token."""

from __future__ import annotations

import json

import click

from streamflow.cli.asking import json_option
from streamflow.web.tokens import UNNAMED, make


@click.command()
@click.option("--name", default=UNNAMED, help="What web_rights calls its holder by.")
@click.option("--existing", is_flag=True, help="Hash a token that there is already; it is asked for.")
@json_option
def command(name: str, existing: bool, as_json: bool) -> None:
    """Make a token for the web view, and the hash of it that the settings hold."""
    token, entry = make(name, click.prompt("Token", hide_input=True, err=True) if existing else None)
    if as_json:
        click.echo(json.dumps({"name": name, "entry": entry, **({} if existing else {"token": token})}))
        return
    if not existing:
        click.echo("Its holder sends this as `Authorization: Bearer ...`; it is shown now and kept nowhere:")
        click.echo(f"  {token}\n")
    click.echo("Add this to web_tokens (STREAMFLOW_WEB_TOKENS, separated by commas):")
    click.echo(f"  {entry}")
    if name != UNNAMED:
        click.echo(f"\nIts rights are what web_rights gives to {name}, such as '{name} read:table:orders'.")

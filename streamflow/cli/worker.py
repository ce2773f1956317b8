"""``streamflow worker -A MODULE``: as ``faust -A MODULE worker``."""

from __future__ import annotations

import click

from streamflow.cli.apps import app_option, load

LEVELS = ("crit", "error", "warn", "info", "debug")


@click.command()
@app_option
@click.option("-l", "--loglevel", default="info", show_default=True, type=click.Choice(LEVELS))
@click.option("-p", "--web-port", type=click.IntRange(0, 65_535), help="Of the web view; busy: an error.")
@click.option("-b", "--web-bind", metavar="HOST", help="Address of the web view.")
@click.option("--without-web", is_flag=True, help="No web view: other workers can't ask this one.")
def command(
    module: str, loglevel: str, web_port: int | None, web_bind: str | None, without_web: bool
) -> None:
    """Start a worker of an app; Ctrl-C or SIGTERM end it cleanly."""
    from faust.cli.faust import cli

    load(module)  # what is wrong with it is told in a sentence
    arguments = ["--app", module, "worker", "--loglevel", loglevel]
    if web_port is not None:
        arguments += ["--web-port", str(web_port)]
    if web_bind is not None:
        arguments += ["--web-bind", web_bind]
    if without_web:
        arguments.append("--without-web")
    cli.main(args=arguments, prog_name="streamflow")

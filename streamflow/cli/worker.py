"""``streamflow worker -A MODULE``: as ``faust -A MODULE worker``; with ``--processes`` several of them."""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING

import click

from streamflow.cli.apps import app_option, load, override
from streamflow.transports.connect import scheme_of
from streamflow.web.tls import peer_context

if TYPE_CHECKING:
    from streamflow.app.app import App

LEVELS = ("crit", "error", "warn", "info", "debug")
PROCESSES_MAX = 256
WILDCARDS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]"}


@click.command()
@app_option
@click.option("-l", "--loglevel", default="info", show_default=True, type=click.Choice(LEVELS))
@click.option("-p", "--web-port", type=click.IntRange(0, 65_535), help="Of the web view; busy: an error.")
@click.option("-b", "--web-bind", metavar="HOST", help="Address of the web view.")
@click.option("--without-web", is_flag=True, help="No web view: other workers can't ask this one.")
@click.option("-D", "--datadir", metavar="FOLDER", help="Where stores keep their files.")
@click.option(
    "--processes",
    type=click.IntRange(1, PROCESSES_MAX),
    help="So many workers, each a process with the next web port; shows their sum.",
)
def command(
    module: str,
    loglevel: str,
    web_port: int | None,
    web_bind: str | None,
    without_web: bool,
    datadir: str | None,
    processes: int | None,
) -> None:
    """Start a worker of an app; Ctrl-C or SIGTERM end it cleanly."""
    from faust.cli.faust import cli

    app = load(module)  # what is wrong with it is told in a sentence
    folder = [] if datadir is None else ["--datadir", datadir]
    arguments = ["--app", module, *folder, "worker", "--loglevel", loglevel]
    if web_bind is not None:
        arguments += ["--web-bind", web_bind]
    if without_web:
        arguments.append("--without-web")
    if processes is not None:
        override(app, web_port=web_port, web_bind=web_bind)
        sys.exit(run_processes(app, arguments, processes, web=not without_web))
    if web_port is not None:
        arguments += ["--web-port", str(web_port)]
    cli.main(args=arguments, prog_name="streamflow")


def run_processes(app: App, arguments: list[str], count: int, *, web: bool) -> int:
    """Runs ``count`` workers with these arguments of Faust's command; the exit code."""
    from streamflow.cli import processes

    if scheme_of(app.broker_url) == "memory":
        raise click.UsageError(
            "memory:// lives inside one process, so other processes would see nothing of it: name a broker"
            " (setting broker, STREAMFLOW_BROKER) or leave --processes out"
        )
    settings = app.settings.web_settings()
    ports = processes.free_ports(settings, count) if web and app.conf.web_enabled else []
    slot = app.engine_settings.transactional_slot
    if slot or not all(ports) or not ports:
        # No port tells them apart, or somebody named them: then the number does.
        base = slot or f"{socket.gethostname()}-process"
        slots = [f"{base}-{number}" for number in range(count)]
    else:
        # As without the command, and said aloud: by its slot each finds its own stores again, too.
        slots = [f"{socket.gethostname()}-{port}" for port in ports]

    def child(number: int) -> list[str]:
        port = ["--web-port", str(ports[number])] if ports else []
        return [sys.executable, "-m", "faust", *arguments, *port]

    tls = peer_context(settings, any_name=True)  # by their address here, which no certificate need have
    plan = processes.Plan(
        count,
        child,
        slots,
        ports,
        host=WILDCARDS.get(settings.host, settings.host),
        token=settings.own_token,
        tls=tls,
    )
    return processes.run(plan)

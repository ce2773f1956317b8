"""``streamflow demo``: from nothing to a live dashboard."""

from __future__ import annotations

import os
import pathlib
import signal
import sys

import click
from rich.console import Console
from rich.text import Text

from streamflow.app.app import App
from streamflow.app.worker.process import Worker
from streamflow.cli.apps import override
from streamflow.cli.demo_app import CLOSED_TOPIC, TOPIC, WINDOW_S, make_app
from streamflow.errors import ConfigurationError, StreamflowError
from streamflow.transports.connect import scheme_of
from streamflow.transports.redis_streams.embedded.server import SCHEME, EmbeddedServer
from streamflow.web.server import WebServer
from streamflow.web.settings import DEFAULT_PORT


@click.command()
@click.option("--rate", default=200.0, show_default=True, type=click.FloatRange(0, 20_000), help="Events/s.")
@click.option("--port", type=click.IntRange(0, 65_535), help="Port of the dashboard; busy: an error.")
@click.option(
    "--broker",
    metavar="URL",
    help="kafka://host:port, redis://host:port, redis+embedded:///folder, memory://; without it a server of"
    " its own that keeps the counts in your state folder, or memory:// where that can't run.",
)
def command(rate: float, port: int | None, broker: str | None) -> None:
    """A worker, a generator of events and a live dashboard; needs no broker."""
    default, why = default_broker()
    app = make_app(rate, broker, default_broker=default)
    if scheme_of(app.broker_url) == "memory" and why:
        click.secho(f"Counts are kept in memory only: {why}", fg="yellow", err=True)
    if port is not None:
        override(app, web_port=port)
        # Told before anything starts, and not out of the middle of it.
        probe = WebServer(app.settings.web_settings())
        try:
            probe.bind()
        except ConfigurationError as exc:
            raise click.UsageError(f"{exc}; choose another port, or leave --port out") from exc
        probe.release()
    worker = DemoWorker(app, rate)
    worker.execute_from_commandline()


def default_broker() -> tuple[str, str]:
    """The broker's URL, and why it is not the embedded server where it is not."""
    server = EmbeddedServer(state_folder() / "demo")
    try:
        server.check()
    except StreamflowError as exc:
        return "memory://", str(exc)
    return server.url, ""


def state_folder() -> pathlib.Path:
    """Where this user's programs keep what outlives them."""
    home = pathlib.Path.home()
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "streamflow"
    given = os.environ.get("XDG_STATE_HOME", "")
    # A relative one is to be ignored, says the XDG specification.
    return (pathlib.Path(given) if os.path.isabs(given) else home / ".local" / "state") / "streamflow"


class DemoWorker(Worker):
    """A worker that says what to do next when it runs."""

    def __init__(self, app: App, rate: float) -> None:
        super().__init__(app, loglevel="WARN", redirect_stdouts=False)
        self.spinner = None
        self._app = app
        self._rate = rate

    def _setproctitle(self, info: str, *, ident: str = "[streamflow:demo]") -> None:
        super()._setproctitle(info, ident=ident)

    async def on_startup_finished(self) -> None:
        if not self._shutdown_immediately:
            show(self._app, self._rate)

    def _on_sigint(self) -> None:
        self._flag_as_shutdown_by_signal()
        click.echo("\nstopping: a last checkpoint, then the partitions are given back")
        self._schedule_shutdown(signal.SIGINT)


def show(app: App, rate: float) -> None:
    """The address, and what to try next. Lines are not wrapped: they are there to be copied."""
    url = str(app.web_server_url).rstrip("/")
    console = Console(file=sys.stdout, soft_wrap=True, highlight=False)
    port = app.web_server_url.port
    scheme = scheme_of(app.broker_url)
    server = EmbeddedServer.of_url(app.broker_url) if scheme == SCHEME else None
    broker = server.url if server else "memory://" if scheme == "memory" else app.broker_url
    moved = (
        f"   (port {DEFAULT_PORT} is busy)"
        if "web_port" not in app.settings.given and port != DEFAULT_PORT
        else ""
    )

    def line(name: str, text: str, style: str = "") -> None:
        console.print(Text.assemble(("  " + name.ljust(13), "bold"), (text, style)))

    def command_line(text: str, about: str) -> None:
        console.print(Text.assemble(("    " + text, "cyan"), ("  # " + about, "dim")))

    console.print()
    console.print(Text("  streamflow demo", style="bold green"), end="")
    console.print(f"  {rate:g} events/s into {TOPIC}, windows of {WINDOW_S:g} s, broker {broker}")
    console.print()
    line("Dashboard", url + moved, "bold underline")
    console.print()
    console.print(Text("  Try", style="bold"))
    command_line(f"curl {url}/v1/tables", "all tables")
    command_line(f"curl {url}/v1/tables/events_by_user/keys/ann", "one key, its newest window")
    command_line(f"curl '{url}/v1/tables/events_by_type/rows?state=open'", "the windows that count now")
    command_line(
        f"curl '{url}/v1/tables/window_totals/rows?state=closed'", f"final, once each in {CLOSED_TOPIC}"
    )
    command_line(f"curl {url}/metrics", "for Prometheus")
    if server:
        command_line(
            f"redis-cli -s '{server.socket}' XINFO STREAM {TOPIC}:0", "the log, on the embedded Valkey"
        )
    socket = url.replace("http", "ws", 1)
    command_line(f"npx wscat -s streamflow.v1+json -c {socket}/v1/ws", "live; then type these two lines")
    console.print(Text('      {"t":"init"}', style="cyan"))
    console.print(
        Text(
            '      {"t":"subscribe","id":"1","table":"events_by_type","window":"current","snapshot":true,'
            '"mode":"latest"}',
            style="cyan",
        )
    )
    console.print()
    if server:
        line("Kept in", f"{server.folder}: started again, the demo goes on; delete it to begin anew")
    line("Stop", "Ctrl-C")
    console.print()

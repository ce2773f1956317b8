"""Questions to a running worker, over its web view."""

from __future__ import annotations

import json
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

import click

from streamflow.app.app import App
from streamflow.web.security import APP_HEADER
from streamflow.web.tls import peer_context

TIMEOUT_S = 10.0
MISDIRECTED = 421

url_option = click.option(
    "--url", metavar="URL", help="Any worker of the app; by default one on this machine."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs.")


def base_url(app: App, url: str | None) -> str:
    """The worker to ask: ``url``, or where the app's settings say that one listens."""
    if url is None:
        return str(app.web_server_url).rstrip("/")
    if urlsplit(url).scheme not in ("http", "https"):
        raise click.BadParameter(f"{url!r} is no http address", param_hint="--url")
    return url.rstrip("/")


def ask(
    app: App, url: str | None, *path: str, query: str = "", method: str = "GET", body: object = None
) -> Any:
    """The answer of ``GET /v1/path`` (or ``method``, with a ``body`` as JSON).

    Raises ClickException with what is wrong.
    """
    base = base_url(app, url)
    address = "/".join([base, "v1", *(quote(part, safe="") for part in path)]) + query
    # The port may be another app's: its worker refuses what is meant for this one.
    headers = {"Accept": "application/json", APP_HEADER: quote(app.conf.id)}
    settings = app.settings.web_settings()
    token = settings.own_token
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    timeout_s = TIMEOUT_S if method == "GET" else 3 * TIMEOUT_S
    try:
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            headers["Content-Type"] = "application/json"
        request = Request(address, data=data, headers=headers, method=method)
        with urlopen(request, timeout=timeout_s, context=peer_context(settings)) as answer:
            return json.load(answer)
    except HTTPError as exc:
        if exc.code == MISDIRECTED:
            raise click.ClickException(f"{base}: {_detail(exc)}; name one of its workers with --url") from exc
        raise click.ClickException(_detail(exc)) from exc
    except (URLError, OSError, ValueError) as exc:
        reason = getattr(exc, "reason", exc)
        raise click.ClickException(f"no worker answers at {base} ({reason}); name one with --url") from exc


def _detail(exc: HTTPError) -> str:
    try:
        problem = json.load(exc)
        return str(problem.get("detail") or problem.get("title") or exc)
    except ValueError:
        return str(exc)

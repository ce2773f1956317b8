"""``streamflow dead-letters -A MODULE list|show|replay|drop``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

import click

from streamflow.app.app import App
from streamflow.cli.apps import app_option, load
from streamflow.cli.asking import ask, json_option, url_option
from streamflow.cli.connected import engine_of
from streamflow.errors import ConfigurationError, StreamflowError
from streamflow.query.letter_book import Entry, LetterBook, LetterState, Wanted
from streamflow.transports.connect import scheme_of

PAGE = 1_000
COLUMNS_MAX = 80
STATES = ("waiting", "replayed", "dropped", "all")
COMMANDS = ("list", "show", "replay", "drop")

F = TypeVar("F", bound=Callable[..., Any])
Body = dict[str, Any]
"""A letter as ``GET /v1/dead-letters`` shows it"""


class Letters(Protocol):
    """Where the letters are read and changed: at the broker, or through a worker."""

    def find(self, reason: str | None, state: LetterState) -> list[Body]: ...
    def show(self, letter: Body) -> Body: ...
    def replay(self, letters: Sequence[Body], agent: str | None, values: Sequence[object]) -> None:
        """``values``: that of the one letter, in place of its own; else none."""

    def drop(self, letters: Sequence[Body]) -> None: ...


class AtBroker:
    """Needs no worker."""

    def __init__(self, app: App) -> None:
        self._app = app

    def find(self, reason: str | None, state: LetterState) -> list[Body]:
        async def found() -> list[Body]:
            async with engine_of(self._app) as engine:
                book = LetterBook(engine)
                return [book.describe(e) async for e in book.every(Wanted(reason=reason, state=state))]

        return asyncio.run(found())

    def show(self, letter: Body) -> Body:
        async def shown(book: LetterBook, entries: list[Entry]) -> Body:
            return book.describe(entries[0], whole=True)

        body: Body = asyncio.run(self._with([letter], shown))
        return body

    def replay(self, letters: Sequence[Body], agent: str | None, values: Sequence[object]) -> None:
        async def replayed(book: LetterBook, entries: list[Entry]) -> None:
            if values:
                await book.replay_edited(entries[0], values[0], agent=agent)
            else:
                await book.replay(entries, agent=agent)

        asyncio.run(self._with(letters, replayed))

    def drop(self, letters: Sequence[Body]) -> None:
        async def dropped(book: LetterBook, entries: list[Entry]) -> None:
            await book.drop(entries)

        asyncio.run(self._with(letters, dropped))

    async def _with(self, letters: Sequence[Body], work: Callable[[LetterBook, list[Entry]], Any]) -> Any:
        """Reads the letters whole: what was shown of them is no event."""
        ids = {letter["id"] for letter in letters}
        async with engine_of(self._app) as engine:
            book = LetterBook(engine)
            entries = [e async for e in book.every(Wanted(state="all")) if e.letter.id in ids]
            return await work(book, entries)


class OverHttp:
    """Asks a worker, which alone sees ``memory://``."""

    def __init__(self, app: App, url: str | None) -> None:
        self._app = app
        self._url = url

    def find(self, reason: str | None, state: LetterState) -> list[Body]:
        more = "" if reason is None else f"&reason={quote(reason)}"
        found: list[Body] = []
        cursor = ""
        while True:
            query = f"?limit={PAGE}&state={state}{more}{cursor}"
            body = ask(self._app, self._url, "dead-letters", query=query)
            found += body["dead_letters"]
            if body["next"] is None:
                return found
            cursor = f"&cursor={quote(body['next'])}"

    def show(self, letter: Body) -> Body:
        body: Body = ask(self._app, self._url, "dead-letters", letter["id"])
        return body

    def replay(self, letters: Sequence[Body], agent: str | None, values: Sequence[object]) -> None:
        for letter in letters:
            asked: Body = {"agent": agent, "again": True}
            if values:
                asked["value"] = values[0]
            path = ("dead-letters", letter["id"], "replay")
            ask(self._app, self._url, *path, method="POST", body=asked)

    def drop(self, letters: Sequence[Body]) -> None:
        for letter in letters:
            ask(self._app, self._url, "dead-letters", letter["id"], method="DELETE")


def _letters(app: App, url: str | None) -> Letters:
    if url is None and scheme_of(app.broker_url) != "memory":
        return AtBroker(app)
    over_http = OverHttp(app, url)
    if url is None:
        try:
            ask(app, url, "dead-letters", query="?limit=1")
        except click.ClickException as exc:
            raise click.UsageError(
                f"memory:// lives inside one worker, which has to be asked: {exc.message}"
            ) from exc
    return over_http


@click.group()
@click.option("-A", "--app", "module", metavar="MODULE", help="May stand here as well as behind the word.")
@click.pass_context
def command(context: click.Context, module: str | None) -> None:
    """Events that were set aside: show them, give them to their agents again, or drop them."""
    if module is not None:
        context.default_map = {name: {"module": module} for name in COMMANDS}


def _options(function: F) -> F:
    """Those that all of the commands have."""
    for option in (json_option, url_option, app_option):
        function = option(function)
    return function


def _choice(function: F) -> F:
    """Which letters are meant."""
    for option in (
        click.option("--yes", is_flag=True, help="Do not ask."),
        click.option("--again", is_flag=True, help="Also those that were replayed or dropped before."),
        click.option("--reason", help="Only those with this reason."),
        click.option("--all", "everything", is_flag=True, help="Every one that waits (of the reason)."),
        click.argument("places", nargs=-1, metavar="[PLACE]..."),
    ):
        function = option(function)
    return function


@command.command("list")
@_options
@click.option("--reason", help="Only those with this reason.")
@click.option("--state", default="waiting", show_default=True, type=click.Choice(STATES))
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1), help="The newest so many.")
def show_all(
    module: str, url: str | None, as_json: bool, reason: str | None, state: LetterState, limit: int
) -> None:
    """The newest dead letters of an app."""
    app = load(module)
    letters = sorted(_letters(app, url).find(reason, state), key=lambda each: each["time"])[-limit:]
    if as_json:
        click.echo(json.dumps(letters))
        return
    for letter in letters:
        for line in _lines(letter):
            click.echo(line)
    click.echo(f"{len(letters)} {'letter' if len(letters) == 1 else 'letters'}", err=True)


@command.command("show")
@_options
@click.argument("place")
def show_one(module: str, url: str | None, as_json: bool, place: str) -> None:
    """One dead letter whole. PLACE is where it lies, or where its event did: topic:partition:offset."""
    letters = _letters(load(module), url)
    (letter,) = _named(letters.find(None, "all"), (place,))[-1:]
    whole = letters.show(letter)
    if as_json:
        click.echo(json.dumps(whole))
        return
    source = whole.pop("source")
    whole["source"] = f"{source['topic']}:{source['partition']}:{source['offset']}"
    traceback = whole.pop("traceback")
    for name, value in whole.items():
        if value is not None and value != []:
            click.echo(f"{name:<10} {value if isinstance(value, str) else json.dumps(value)}")
    if traceback:
        click.echo(f"\n{traceback.rstrip()}")


@command.command("replay")
@_options
@_choice
@click.option("--agent", help="Only this agent takes them; by default all that read there.")
@click.option("--value", metavar="JSON", help="In place of the event's own value; of one letter.")
def replay(
    module: str,
    url: str | None,
    as_json: bool,
    places: tuple[str, ...],
    *,
    agent: str | None,
    value: str | None,
    **choice: Any,
) -> None:
    """Send events to the topic and partition that they came from, as they were.

    PLACE is where the letter lies, or where its event did: topic:partition:offset. Every agent of that topic
    takes the event again, also one that has counted it before, unless --agent names one; and what is
    replayed twice comes twice. One that was too large to be kept whole is left out.
    """
    letters = _letters(load(module), url)
    chosen = _chosen(letters, places, **choice)
    if value is not None and len(chosen) != 1:
        raise click.UsageError("--value is that of one letter: name its place")
    values = [] if value is None else [_json(value)]
    for each in chosen:
        if each["cut"] is not None and not values:
            click.echo(f"{each['id']} is left out: only its beginning was kept ({each['cut']})", err=True)
    chosen = [each for each in chosen if each["cut"] is None or values]
    _confirm(f"Send {len(chosen)} events again?", chosen, choice["yes"])
    if chosen:
        _do(lambda: letters.replay(chosen, agent, values))
    click.echo(json.dumps({"replayed": len(chosen)}) if as_json else f"{len(chosen)} sent again")


@command.command("drop")
@_options
@_choice
def drop(module: str, url: str | None, as_json: bool, places: tuple[str, ...], **choice: Any) -> None:
    """Take letters out of those that wait. They stay in their topic: `list --state dropped` shows them."""
    letters = _letters(load(module), url)
    chosen = _chosen(letters, places, **choice)
    _confirm(f"Drop {len(chosen)} letters?", chosen, choice["yes"])
    if chosen:
        _do(lambda: letters.drop(chosen))
    click.echo(json.dumps({"dropped": len(chosen)}) if as_json else f"{len(chosen)} dropped")


def _chosen(
    letters: Letters,
    places: tuple[str, ...],
    *,
    everything: bool,
    reason: str | None,
    again: bool,
    yes: bool,
) -> list[Body]:
    """Raises UsageError for places that hold no letter, and for letters that are handled already."""
    if bool(places) == everything:
        raise click.UsageError("name the places of the letters, or --all")
    if everything:
        return letters.find(reason, "all" if again else "waiting")
    chosen = _named(letters.find(reason, "all"), places)
    handled = [each for each in chosen if each["state"] != "waiting"]
    if handled and not again:
        # Of several letters of one event those that wait are meant.
        waiting = [each for each in chosen if each["state"] == "waiting"]
        missing = [place for place in places if not any(place in _names(each) for each in waiting)]
        if missing:
            first = next(each for each in handled if missing[0] in _names(each))
            raise click.UsageError(f"{missing[0]} was {first['state']} before: say --again if it is meant")
        return waiting
    return chosen


def _named(letters: list[Body], places: tuple[str, ...]) -> list[Body]:
    """Those that lie at these places, or whose events did. Raises UsageError for a place without one."""
    found = [each for each in letters if any(place in _names(each) for place in places)]
    missing = [place for place in places if not any(place in _names(each) for each in found)]
    if missing:
        raise click.UsageError(f"there is no dead letter at {', '.join(missing)}")
    return found


def _names(letter: Body) -> set[str]:
    source = letter["source"]
    places = [letter["id"].rsplit(":", 2), [source["topic"], str(source["partition"]), source["offset"]]]
    return {text for t, p, o in places for text in (f"{t}:{p}:{o}", f"{t}[{p}]@{o}")}


def _confirm(question: str, chosen: list[Body], yes: bool) -> None:
    if chosen and not yes:
        click.confirm(question, abort=True, err=True)


def _do(work: Callable[[], None]) -> None:
    try:
        work()
    except (ConfigurationError, TypeError) as exc:
        raise click.UsageError(str(exc)) from exc
    except StreamflowError as exc:
        raise click.ClickException(f"{exc}; some may have been sent, and wait still") from exc


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError as exc:
        raise click.UsageError(f"--value is no JSON: {exc}") from exc


def _lines(letter: Body) -> list[str]:
    """Three lines of at most `COLUMNS_MAX`, but for the place, which has to be copied whole."""
    source = letter["source"]
    who = f" by {letter['consumer']}" if letter["consumer"] else ""
    tries = f", {letter['attempts']} attempts" if letter["attempts"] else ""
    where = f"{source['topic']}:{source['partition']}:{source['offset']}"
    return [
        f"{letter['id']}  {letter['state']}  {letter['time']}",
        _short(f"  {letter['reason']} at {where}{who}{tries}: {letter['error']}"),
        _short(f"  {_text(letter['key'])}  {_text(letter['value'])}"),
    ]


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _short(line: str) -> str:
    line = " ".join(line.splitlines())
    return line if len(line) <= COLUMNS_MAX else line[: COLUMNS_MAX - 1] + "…"

"""Dead letters over HTTP: listed, shown, replayed, dropped. Any worker does all of it: they lie in topics."""

from __future__ import annotations

from typing import Any, Final, cast, get_args

import msgspec
from aiohttp import web
from msgspec import UNSET, Struct

from streamflow.errors import ConfigurationError, StreamflowError
from streamflow.query.letter_book import Entry, LetterState, Place, Wanted, place_text, read_place
from streamflow.query.slices import Slices
from streamflow.web import encoding, query
from streamflow.web.http.api import Api, answer, only
from streamflow.web.problems import Problem, unavailable
from streamflow.web.rights import Right, caller_of

LIMIT_DEFAULT: Final = 100
STATES: Final = get_args(LetterState)


class Replay(Struct, frozen=True, forbid_unknown_fields=True):
    """What a replay is asked with. ``again``: also where the letter was replayed or dropped before."""

    value: Any = UNSET
    agent: str | None = None
    again: bool = False


class DeadLetters:
    """The handlers of ``/v1/dead-letters``."""

    def __init__(self, api: Api) -> None:
        self._served = api.served
        self._settings = api.settings

    async def dead_letters(self, request: web.Request) -> web.StreamResponse:
        """Page by page, in the order of topic, partition and offset."""
        parameters = only(request, ("topic", "reason", "state", "limit", "cursor"))
        limit = parameters.get("limit", str(min(LIMIT_DEFAULT, self._settings.rows_max)))
        if not (encoding.is_number(limit) and 1 <= int(limit) <= self._settings.rows_max):
            raise query.bad_parameter(
                "limit", f"limit={limit!r} is no number from 1 to {self._settings.rows_max}"
            )
        state = parameters.get("state", "waiting")
        if state not in STATES:
            raise query.bad_parameter("state", f"state={state!r} is not one of {', '.join(STATES)}")
        caller, letters = caller_of(request), self._served.letters
        known = letters.topics()
        topics = frozenset(topic for topic in known if caller.may("read", "topic", topic))
        topic = parameters.get("topic")
        by_place = topic in known
        wanted = Wanted(
            topics & {topic} if by_place else topics,
            None if by_place else topic,
            parameters.get("reason"),
            cast("LetterState", state),
        )
        try:
            page = await letters.page(wanted, int(limit), _cursor(parameters.get("cursor")))
        except StreamflowError as exc:
            raise _unavailable(exc) from exc
        slices = Slices(self._served.clock)
        shown: list[bytes] = []
        for entry in page.entries:
            shown.append(encoding.encode(letters.describe(entry)))
            if slices.over():
                await slices.rest()
        body = {"dead_letters": msgspec.Raw(b"[%b]" % b",".join(shown)), "next": place_text(page.next)}
        return answer(request, body)

    async def dead_letter(self, request: web.Request) -> web.StreamResponse:
        only(request, ())
        entry = await self._find(request, "read")
        return answer(request, self._served.letters.describe(entry, whole=True))

    async def dead_letter_replay(self, request: web.Request) -> web.StreamResponse:
        """Sends its event to where it came from; what is replayed twice comes twice."""
        only(request, ())
        entry = await self._find(request, "admin")
        asked = await _read(request)
        if entry.handled is not None and not asked.again:
            detail = f"{entry.letter.id} was {entry.state} before: say again=true if it is meant"
            raise Problem(409, "already-handled", detail, state=entry.state)
        letters = self._served.letters
        try:
            if asked.value is UNSET:
                (offset,) = await letters.replay([entry], agent=asked.agent)
            else:
                offset = await letters.replay_edited(entry, asked.value, agent=asked.agent)
        except (ConfigurationError, TypeError) as exc:
            raise Problem(400, "bad-request", str(exc)) from exc
        except StreamflowError as exc:
            raise _unavailable(exc) from exc
        topic, partition, _ = entry.letter.source
        position = {"topic": topic, "partition": partition, "offset": str(offset)}
        return answer(request, {"id": entry.letter.id, "state": "replayed", "position": position})

    async def dead_letter_drop(self, request: web.Request) -> web.StreamResponse:
        only(request, ())
        entry = await self._find(request, "admin")
        try:
            await self._served.letters.drop([entry])
        except StreamflowError as exc:
            raise _unavailable(exc) from exc
        return answer(request, {"id": entry.letter.id, "state": "dropped"})

    async def _find(self, request: web.Request, right: Right) -> Entry:
        """The letter of the URL, for who has this right to its topic. Raises Problem 403, 404 or 503."""
        raw = request.match_info["id"]
        try:
            place: Place | None = read_place(raw)
        except ValueError:
            place = None
        if place is not None:
            caller_of(request).require(right, "topic", place.topic)
            try:
                entry = await self._served.letters.find(place)
            except StreamflowError as exc:
                raise _unavailable(exc) from exc
            if entry is not None:
                return entry
        raise Problem(404, "no-such-dead-letter", f"there is no dead letter {raw!r} (any more)")


async def _read(request: web.Request) -> Replay:
    """Raises Problem 400."""
    raw = await request.read()
    if not raw:
        return Replay()
    try:
        return msgspec.json.decode(raw, type=Replay)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise Problem(400, "bad-request", f"the body is no replay: {exc}") from exc


def _cursor(text: str | None) -> Place | None:
    try:
        return None if text is None else read_place(text)
    except ValueError:
        raise Problem(400, "bad-cursor", f"{text!r} is no cursor of this list") from None


def _unavailable(exc: StreamflowError) -> Problem:
    return unavailable("broker-unavailable", f"dead letters can't be read or marked now: {exc}")

"""What answers of HTTP servers mean to those who ask again."""

from __future__ import annotations

from http import HTTPStatus

import aiohttp

SHOWN_BYTES = 200
_WAIT = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})


def is_worth_waiting(status: int) -> bool:
    """May the same request be answered otherwise later?"""
    return status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _WAIT


async def shown(answer: aiohttp.ClientResponse) -> str:
    """The beginning of an answer, for an error's message."""
    return (await answer.content.read(SHOWN_BYTES)).decode(errors="replace")

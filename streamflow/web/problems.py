"""Errors as RFC 9457 ``application/problem+json``."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from aiohttp import web

from streamflow.web import encoding

log = logging.getLogger(__name__)

PROBLEM_TYPE: Final = "application/problem+json"
RETRY_AFTER_S: Final = "1"
TABLES_UNKNOWN: Final = "this worker has just started and does not know its tables yet"

TITLES: Final[Mapping[str, str]] = {
    "bad-request": "The request can't be understood",
    "bad-parameter": "A parameter is wrong",
    "bad-cursor": "The cursor is not one of this list",
    "bad-key": "The key is not one of this table",
    "unauthorized": "A valid token is needed",
    "forbidden": "Not allowed",
    "host-not-allowed": "This name is not one of this worker",
    "not-found": "There is nothing here",
    "another-app": "This is a worker of another app",
    "no-such-topic": "There is no such topic",
    "bad-event": "An event can't be published",
    "key-reused": "The Idempotency-Key was used for something else",
    "already-handled": "This was done before",
    "no-such-dead-letter": "There is no such dead letter",
    "broker-unavailable": "The broker does not answer now",
    "no-such-table": "There is no such table",
    "no-such-key": "There is no such row",
    "method-not-allowed": "This method is not offered here",
    "not-acceptable": "This format is not to be had here",
    "not-applicable": "This can't be done with such a table",
    "scattered-key": "The rows of this key lie in several partitions",
    "owner-unavailable": "The owner of these rows can't be reached now",
    "position-not-reached": "The position asked for was not reached in time",
    "not-ready": "This worker is still recovering",
    "too-large": "The request is too large",
    "too-many-guesses": "Too many wrong tokens came from there",
    "internal-error": "Something went wrong in this worker",
}
_BY_STATUS: Final = {
    400: "bad-request",
    401: "unauthorized",
    403: "forbidden",
    404: "not-found",
    405: "method-not-allowed",
    413: "too-large",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Problem(Exception):
    """An answer that is an error. ``extra`` are further members of the body, JSON-able."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        **extra: object,
    ) -> None:
        super().__init__(status, code, detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})
        self.extra = extra

    def body(self, instance: str) -> dict[str, Any]:
        return {
            **self.extra,
            "type": f"urn:streamflow:problem:{self.code}",
            "title": TITLES.get(self.code, self.code),
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            "instance": instance,
        }

    def response(self, request: web.BaseRequest) -> web.Response:
        return web.Response(
            status=self.status,
            body=encoding.encode(self.body(request.rel_url.raw_path)),
            content_type=PROBLEM_TYPE,
            headers=self.headers,
        )


def unavailable(code: str, detail: str, **extra: object) -> Problem:
    """503 for what goes away by itself, with ``Retry-After``."""
    return Problem(503, code, detail, headers={"Retry-After": RETRY_AFTER_S}, retry=True, **extra)


def tables_unknown() -> Problem:
    """503 of a worker that has just started: whether a table exists is not known yet."""
    return unavailable("not-ready", TABLES_UNKNOWN)


@web.middleware
async def problem_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns whatever a handler raises into a problem; details of the unexpected stay in the log."""
    try:
        return await handler(request)
    except Problem as problem:
        return problem.response(request)
    except web.HTTPException as exc:
        if exc.status < 400:
            raise
        code = _BY_STATUS.get(exc.status, "bad-request" if exc.status < 500 else "internal-error")
        headers = {"Allow": exc.headers["Allow"]} if "Allow" in exc.headers else {}
        detail = f"{request.method} {request.rel_url.raw_path}: {exc.reason}"
        return Problem(exc.status, code, detail, headers=headers).response(request)
    except Exception:
        log.exception("%s %s failed", request.method, request.rel_url.raw_path)
        return Problem(500, "internal-error", "the log of this worker has the details").response(request)

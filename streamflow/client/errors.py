"""What a client raises: each carries the word by which the worker, or this side, names the problem."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamflow.errors import StreamflowError


class ClientError(StreamflowError):
    """A question or a subscription can't be had.

    Attributes:
        code: the problem's word (``no-such-table``), or one of this side's: ``unreachable``, ``partial``,
            ``outcome-unknown``, ``not-supported``, ``connection-lost``, ``too-slow``, ``closed``.
        status: of HTTP, or ``None``.
        retry: whether the same may be had later.
        details: further members of the problem, for instance ``parameter`` or ``missing_partitions``.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        status: int | None = None,
        retry: bool = False,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message
        self.status = status
        self.retry = retry
        self.details: dict[str, Any] = dict(details or {})


class Unreachable(ClientError):
    """None of the workers answers."""


class Partial(ClientError):
    """The rows of some partitions can't be had now; ``details["missing_partitions"]`` names them."""


class OutcomeUnknown(ClientError):
    """The connection was lost before the worker had answered: what was sent may be there, or not."""

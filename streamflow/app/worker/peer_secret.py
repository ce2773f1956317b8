"""By what workers on one machine know each other when nobody has set a secret: a file that all read."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Final

from streamflow.web.settings import WebSettings

log = logging.getLogger(__name__)

NAME: Final = "peer-secret"
CHARACTERS_MIN: Final = 32


def with_secret(settings: WebSettings, data_dir: str) -> WebSettings:
    """The settings with the secret of this app's ``data_dir``, where they have none.

    Where the file can't be had they stay without one: workers are then asked as anybody is.
    """
    if settings.worker_secret is not None:
        return settings
    try:
        return replace(settings, peer_secret=_read_or_make(Path(data_dir)))
    except (OSError, UnicodeDecodeError) as exc:
        log.warning("no secret can be kept for the workers of this machine (web_peer_secret): %s", exc)
        return settings


def _read_or_make(folder: Path) -> str:
    """Only its owner may read it, and it is whole whenever there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / NAME
    if not place.exists():
        made = folder / f"{NAME}.{os.getpid()}.{secrets.token_hex(4)}"
        try:
            with open(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_urlsafe(32))
            # A link, which fails where another worker has been faster: its secret is the one.
            with contextlib.suppress(FileExistsError):
                os.link(made, place)
        finally:
            made.unlink(missing_ok=True)
    status = place.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise OSError(f"{place} is another's, or others may read it")
    text = place.read_text().strip()
    if len(text) < CHARACTERS_MIN:
        raise OSError(f"{place} is cut off: delete it")
    return text

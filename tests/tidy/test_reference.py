"""The reference pages are those that their script writes."""

from __future__ import annotations

import pathlib
import runpy

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "docs" / "reference"
ANEW = "write it anew: python docs/reference/write_reference.py"


def test_the_pages_are_what_the_script_writes() -> None:
    script = runpy.run_path(str(FOLDER / "write_reference.py"))
    assert (FOLDER / "http.md").read_text(encoding="utf-8") == script["http_page"](), ANEW
    page = (FOLDER / "websocket.md").read_text(encoding="utf-8")
    assert page == script["websocket_page"](page), ANEW
    assert script["BEGIN"] in page
    assert script["END"] in page

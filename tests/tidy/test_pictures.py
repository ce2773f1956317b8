"""The pictures in the documentation are those that their scripts draw."""

from __future__ import annotations

import pathlib
import runpy

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"
FOLDER = DOCS / "explanation" / "pictures"


def test_each_picture_is_what_the_script_draws(tmp_path: pathlib.Path) -> None:
    script = runpy.run_path(str(FOLDER / "draw.py"))
    for draw in script["PICTURES"]:
        draw.__globals__["HERE"] = tmp_path
        draw()
    drawn = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert drawn == {path.name: path.read_text() for path in FOLDER.glob("*.svg")}


def test_the_picture_of_the_rooms_is_that_of_the_imports() -> None:
    script = runpy.run_path(str(DOCS / "pictures" / "draw_rooms.py"))
    drawn = (DOCS / "pictures" / "rooms.svg").read_text(encoding="utf-8")
    assert drawn == script["picture"](), "draw it anew: python docs/pictures/draw_rooms.py"

"""The pictures in the documentation are those that their script draws."""

from __future__ import annotations

import pathlib
import runpy

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "docs" / "explanation" / "pictures"


def test_each_picture_is_what_the_script_draws(tmp_path: pathlib.Path) -> None:
    script = runpy.run_path(str(FOLDER / "draw.py"))
    for draw in script["PICTURES"]:
        draw.__globals__["HERE"] = tmp_path
        draw()
    drawn = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert drawn == {path.name: path.read_text() for path in FOLDER.glob("*.svg")}

"""Draws the rooms of ``streamflow/`` and who imports whom: ``python docs/pictures/draw_rooms.py``.

Nothing is drawn by hand. The rooms and their order are the layers in ``pyproject.toml``, what a room is for
is the first sentence of its docstring, and the dots are the imports in its modules, those for types included.
A dot left of the diagonal would be an import upwards.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PACKAGE = ROOT / "streamflow"
ROW, TOP, NAME_X, TEXT_X, MATRIX_X, CELL = 26, 112, 16, 124, 676, 20
TEXT_MAX = 80  # characters
INK, PALE, LINE, BLUE, BAND = "#1f2937", "#6b7280", "#e5e7eb", "#2563eb", "#f3f4f6"


def layers() -> list[list[str]]:
    """The rooms from top to bottom; those of one layer do not know each other. `testing` stands above all."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (floors,) = [c for c in config["tool"]["importlinter"]["contracts"] if c["id"] == "floors"]
    return [list(floors["exhaustive_ignores"]), *(layer.split(" | ") for layer in floors["layers"])]


def modules_of(room: str) -> list[Path]:
    folder = PACKAGE / room
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{room}.py"]


def purpose(room: str) -> str:
    """The first sentence of the room's docstring, as far as a line goes."""
    folder = PACKAGE / room
    path = folder / "__init__.py" if folder.is_dir() else PACKAGE / f"{room}.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    sentence = " ".join(text.split("\n\n")[0].split()).split(". ")[0].rstrip(".").replace("`", "")
    if len(sentence) > TEXT_MAX:
        sentence = re.sub(r"[,;:]? [^,;: ]*$", "", sentence[:TEXT_MAX]) + " ..."
    return sentence


def imported_rooms(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "streamflow":
            names = [f"streamflow.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [node.module]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            if package == "streamflow" and rest:
                yield rest.split(".")[0]


def picture() -> str:
    """The whole SVG."""
    ordered = [room for layer in layers() for room in layer]
    place = {room: index for index, room in enumerate(ordered)}
    width, height = MATRIX_X + CELL * len(ordered) + 24, TOP + ROW * len(ordered) + 16
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
        f' height="{height}" font-family="system-ui, sans-serif" font-size="13" role="img">',
        "<title>The rooms of streamflow, top to bottom, and which imports which: only downwards</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    top = 0
    for number, layer in enumerate(layers()):
        if number % 2 == 0:
            y, band_height = TOP + ROW * top, ROW * len(layer)
            parts.append(f'<rect x="8" y="{y}" width="{width - 16}" height="{band_height}" fill="{BAND}"/>')
        top += len(layer)
    for index in place.values():
        x = MATRIX_X + CELL * index + CELL / 2
        parts.append(f'<line x1="{x}" y1="{TOP - 4}" x2="{x}" y2="{height - 16}" stroke="{LINE}"/>')
    for room, index in place.items():
        y, x = TOP + ROW * index + ROW / 2, MATRIX_X + CELL * index + CELL / 2
        is_file = not (PACKAGE / room).is_dir()
        name = f"{room}.py" if is_file else f"{room}/"
        parts += [
            f'<text x="{NAME_X}" y="{y + 4}" fill="{INK}" font-weight="600">{name}</text>',
            f'<text x="{TEXT_X}" y="{y + 4}" fill="{PALE}">{escape(purpose(room))}</text>',
            f'<text transform="translate({x + 4} {TOP - 8}) rotate(-60)" fill="{INK}">{room}</text>',
            f'<rect x="{x - 5}" y="{y - 5}" width="10" height="10" fill="{LINE}"/>',
        ]
        imported = {found for path in modules_of(room) for found in imported_rooms(path)} - {room}
        for other in sorted(imported & place.keys(), key=place.__getitem__):
            cx = MATRIX_X + CELL * place[other] + CELL / 2
            parts.append(f'<circle cx="{cx}" cy="{y}" r="4.5" fill="{BLUE}"/>')
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    (HERE / "rooms.svg").write_text(picture(), encoding="utf-8")

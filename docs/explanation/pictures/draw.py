"""Draws the pictures of time-and-windows.md: ``python docs/explanation/pictures/draw.py``.

Which windows there are, and when one closes, is asked of `streamflow.windows` itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path

from streamflow.windows import HoppingWindow, SessionWindow, SlidingWindow, TumblingWindow
from streamflow.windows.session import Part, sessions_of

HERE = Path(__file__).parent
WIDTH, LEFT, RIGHT = 760, 120, 24
INK, PALE, PAPER = "#1f2937", "#9ca3af", "#ffffff"
BLUE, GREEN, AMBER, RED = "#2563eb", "#059669", "#b45309", "#dc2626"
FILLS = {BLUE: "#dbeafe", GREEN: "#d1fae5", AMBER: "#fef3c7", RED: "#fee2e2", PALE: "#f3f4f6"}


class Picture:
    """An SVG with a time axis from ``first_s`` to ``last_s``."""

    def __init__(self, height: int, first_s: float, last_s: float, text: str) -> None:
        self.height = height
        self.first_s, self.last_s = first_s, last_s
        self.text = text
        self.parts: list[str] = []

    def x(self, at_s: float) -> float:
        share = (at_s - self.first_s) / (self.last_s - self.first_s)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def label(self, x: float, y: float, text: str, *, colour: str = INK, anchor: str = "middle") -> None:
        self.parts.append(
            f'<text x="{x}" y="{y}" fill="{colour}" text-anchor="{anchor}">{escape(text)}</text>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str, dash: str = "") -> None:
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{colour}" stroke-width="1.5"{dashed}/>'
        )

    def axis(self, y: float, every_s: float, name: str = "event time (s)") -> None:
        self.line(LEFT, y, WIDTH - RIGHT, y, INK)
        at_s = self.first_s
        while at_s <= self.last_s:
            self.line(self.x(at_s), y, self.x(at_s), y + 5, INK)
            self.label(self.x(at_s), y + 19, f"{at_s:g}", colour=INK)
            at_s += every_s
        self.label(LEFT - 10, y + 5, name, anchor="end")

    def bar(self, y: float, start_s: float, end_s: float, text: str, colour: str = BLUE) -> None:
        """A window ``[start, end)``; what lies outside of the picture is cut off."""
        left, right = self.x(max(start_s, self.first_s)), self.x(min(end_s, self.last_s))
        self.parts.append(
            f'<rect x="{left}" y="{y}" width="{round(right - left, 1)}" height="22" rx="4" '
            f'fill="{FILLS[colour]}" stroke="{colour}"/>'
        )
        self.label((left + right) / 2, y + 15.5, text, colour=INK)

    def dot(self, y: float, at_s: float, colour: str = INK, text: str = "") -> None:
        self.parts.append(f'<circle cx="{self.x(at_s)}" cy="{y}" r="5" fill="{colour}"/>')
        if text:
            self.label(self.x(at_s), y - 10, text, colour=colour)

    def row(self, y: float, text: str) -> None:
        self.label(LEFT - 10, y, text, anchor="end")

    def write(self, name: str) -> None:
        body = "\n".join(self.parts)
        (HERE / f"{name}.svg").write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height}" width="{WIDTH}" '
            f'height="{self.height}" role="img" font-family="system-ui, sans-serif" font-size="13">\n'
            f"<title>{escape(self.text)}</title>\n"
            f'<rect width="{WIDTH}" height="{self.height}" rx="8" fill="{PAPER}"/>\n{body}\n</svg>\n'
        )


def seconds(windows: Iterable[tuple[int, int]]) -> list[tuple[float, float]]:
    return [(start / 1_000, end / 1_000) for start, end in windows]


def counted(events: list[float], start_s: float, end_s: float) -> int:
    return sum(start_s <= at_s < end_s for at_s in events)


def tumbling() -> None:
    window, events = TumblingWindow(10), [2, 4, 9, 12, 21, 24, 26, 29]
    picture = Picture(128, 0, 30, "Tumbling windows of 10 s: each event lies in exactly one")
    found = {w for at in events for w in seconds(window.windows_of(int(at * 1_000)))}
    picture.row(36, "windows")
    for start, end in sorted(found):
        picture.bar(20, start, end, f"[{start:g}, {end:g}): {counted(events, start, end)}")
    picture.row(72, "events")
    for at in events:
        picture.dot(68, at)
    picture.axis(92, 5)
    picture.write("tumbling")


def hopping() -> None:
    window, events = HoppingWindow(10, 5), [2, 4, 9, 12, 21]
    picture = Picture(206, 0, 30, "Hopping windows of 10 s every 5 s: each event lies in two")
    found = {w for at in events for w in seconds(window.windows_of(int(at * 1_000)))}
    picture.row(36, "windows")
    for index, (start, end) in enumerate(w for w in sorted(found) if w[0] >= 0):
        picture.bar(20 + 26 * (index % 4), start, end, f"[{start:g}, {end:g}): {counted(events, start, end)}")
    picture.row(148, "events")
    for at in events:
        picture.dot(144, at, RED if at == 12 else INK)
    picture.line(picture.x(12), 20, picture.x(12), 139, RED, "4 3")
    picture.axis(168, 5)
    picture.write("hopping")


def sliding() -> None:
    window, events = SlidingWindow(10), [4.0, 9.0, 17.0]
    picture = Picture(254, -6, 30, "Sliding windows of 10 s: one ends with each event, one begins after it")
    picture.row(36, "ends with it")
    picture.row(114, "begins after it")
    for at in events:
        picture.line(picture.x(at), 20, picture.x(at), 180, PALE, "3 3")
    for index, at in enumerate(events):
        ((start, end),) = seconds(window.windows_of(int(at * 1_000)))
        picture.bar(20 + 26 * index, start, end, f"{counted(events, start, end)}")
        follows = counted(events, end, end + 10)
        if follows:
            picture.bar(98 + 26 * index, end, end + 10, f"{follows}", GREEN)
    picture.label(picture.x(17) + 6, 166, "none after 17: nothing follows", colour=PALE, anchor="start")
    picture.row(200, "events")
    for at in events:
        picture.dot(196, at, text=f"{at:g}")
    picture.axis(216, 6)
    picture.write("sliding")


def session() -> None:
    window, events = SessionWindow(10), [1, 10, 15, 22, 30, 48, 52]
    picture = Picture(184, 0, 70, "Sessions with a gap of 10 s: an event that comes between two joins them")
    size = window.size_ms

    def sessions(some: list[float]) -> list[tuple[float, float, int]]:
        parts = [Part(int(at * 1_000), int(at * 1_000) + size, None, at) for at in some]
        return [(s.start / 1_000, s.end / 1_000, len(s.parts)) for s in sessions_of(parts)]

    picture.row(36, "without 39")
    for start, end, count in sessions(events):
        picture.bar(20, start, end, f"{count} events")
    picture.row(74, "with 39")
    for start, end, count in sessions([*events, 39]):
        picture.bar(58, start, end, f"{count} events", GREEN)
    picture.row(124, "events")
    for at in events:
        picture.dot(120, at)
    picture.dot(120, 39, GREEN, "39")
    picture.axis(144, 10)
    picture.write("session")


def watermark() -> None:
    """Time of arrival goes down, event time to the right."""
    window = TumblingWindow(10, grace_s=5)
    arrivals = [2.0, 6.0, 11.0, 8.0, 13.0, 15.0, 7.0, 21.0]
    picture = Picture(388, 0, 24, "Events as they arrive, the watermark, and a window that closes at 15")
    picture.bar(14, 0, 10, "window [0, 10)")
    picture.bar(14, 10, 15, "grace 5 s", AMBER)
    picture.line(picture.x(15), 40, picture.x(15), 326, AMBER, "5 4")
    picture.label(picture.x(15) + 6, 52, "closes when the watermark is here", colour=AMBER, anchor="start")
    mark = arrivals[0]
    for index, at in enumerate(arrivals):
        y, before = 74 + 33 * index, mark
        mark = max(mark, at)
        late = window.closed(window.start_of(int(at * 1_000)), int(mark * 1_000))
        picture.row(y + 5, f"arrives {index + 1}.")
        if index:
            picture.line(picture.x(before), y - 33, picture.x(before), y, BLUE)
            picture.line(picture.x(before), y, picture.x(mark), y, BLUE)
        text = f"{at:g}: late" if late else f"{at:g}: counts" if at < before else f"{at:g}"
        if at < before:
            picture.dot(y, at, RED if late else GREEN)
            picture.label(picture.x(at) - 10, y + 5, text, colour=RED if late else GREEN, anchor="end")
        else:
            picture.dot(y, at)
            picture.label(picture.x(at) + 10, y - 7, text, anchor="start")
    picture.label(picture.x(18), 300, "watermark", colour=BLUE)
    picture.axis(350, 5)
    picture.write("watermark")


def life() -> None:
    picture = Picture(150, 0, 40, "The life of the window [0, 10) with grace 5 s and retention 15 s")
    picture.bar(20, 0, 10, "open: takes events")
    picture.bar(20, 10, 15, "grace", AMBER)
    picture.bar(20, 15, 30, "closed: shown, can be revised", GREEN)
    picture.bar(20, 30, 40, "expired: gone", PALE)
    picture.row(36, "window [0, 10)")
    for at_s, text in ((10, "end"), (15, "end + grace"), (30, "end + grace + retain")):
        picture.line(picture.x(at_s), 42, picture.x(at_s), 108, INK, "3 3")
        picture.label(picture.x(at_s) + 5, 62 if at_s != 15 else 80, text, anchor="start")
    picture.label(picture.x(15) + 5, 98, "told once", colour=GREEN, anchor="start")
    picture.label(picture.x(30) + 5, 80, "tombstones", colour=PALE, anchor="start")
    picture.axis(110, 5, "watermark (s)")
    picture.write("life")


def box(picture: Picture, place: tuple[float, float], lines: list[str], colour: str) -> None:
    x, y = place
    picture.parts.append(
        f'<rect x="{x}" y="{y}" width="196" height="{20 + 18 * len(lines)}" rx="6" '
        f'fill="{FILLS[colour]}" stroke="{colour}"/>'
    )
    for index, line in enumerate(lines):
        picture.label(x + 98, y + 23 + 18 * index, line)


def arrow(picture: Picture, start: tuple[float, float], end: tuple[float, float], text: str) -> None:
    (x1, y1), (x2, y2) = start, end
    picture.line(x1, y1, x2, y2, INK)
    head = f"{x2},{y2} {x2 - 8},{y2 - 4} {x2 - 8},{y2 + 4}"
    picture.parts.append(f'<polygon points="{head}" fill="{INK}"/>')
    picture.label((x1 + x2) / 2, (y1 + y2) / 2 - 8, text)


def revision() -> None:
    picture = Picture(196, 0, 1, "A late event waits in its store; applied, it leaves it as its row changes")
    box(picture, (20, 24), ["source topic", "event at 7, offset 41"], INK_BOX)
    box(picture, (282, 24), ["late events", "at 7, offset 41,", "behind by 0 s"], AMBER)
    box(picture, (544, 24), ["row of [0, 10)", "closed, n = 3"], GREEN)
    box(picture, (544, 116), ["row of [0, 10)", "revised, n = 4"], GREEN)
    arrow(picture, (216, 52), (282, 52), "late")
    arrow(picture, (478, 98), (544, 130), "")
    picture.label(380, 140, "streamflow late --apply")
    picture.label(380, 160, "one commit: leaves the store,", colour=PALE)
    picture.label(380, 178, "counts in the row, told anew", colour=PALE)
    picture.write("revision")


INK_BOX = PALE

PICTURES = (tumbling, hopping, sliding, session, watermark, life, revision)

if __name__ == "__main__":
    for draw in PICTURES:
        draw()

"""The code blocks of our documents, and a shell that runs them as a reader would.

A fenced block is run unless the line before it is ``<!-- not run: REASON -->``. Blocks of one document are
run in order, in one folder and one environment:

- ``python``: a program. With ``# name.py`` in its first line it is saved under that name, with
  ``# name.py, continued`` it is added to that file. In any case it is imported.
- ``sh``: line by line. A worker (or the demo) runs in the background until the next one starts or the
  document ends, and the next line waits until it is ready.
- ``js``: saved under the name in its first line, ``// name.mjs``; a line of the shell runs it.
- ``html``: a page; the tests of the clients open it in a browser.
- ``text``: something to look at.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

LANGUAGES = ("python", "sh", "js", "html", "text")
NOT_RUN = re.compile(r"<!-- not run: (.+) -->")
FENCE = re.compile(r"```(\w*)$")
FILE = re.compile(r"# (\w+\.py)(, continued)?\n")
SCRIPT = re.compile(r"// (\w+\.mjs)\n")
SERVES = re.compile(r"^(faust|streamflow) .*\bworker\b|^make demo$")
LINE_S = 60.0
READY_S = 90.0
POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Block:
    """``line`` is that of the fence; ``not_run`` the reason why it isn't run, or None."""

    line: int
    language: str
    text: str
    not_run: str | None


def blocks_of(document: str) -> list[Block]:
    """All fenced blocks, in order. Raises ValueError for one that has no end."""
    found: list[Block] = []
    lines = document.splitlines()
    at = 0
    while at < len(lines):
        fence = FENCE.match(lines[at])
        if fence is None:
            at += 1
            continue
        try:
            end = lines.index("```", at + 1)
        except ValueError:
            raise ValueError(f"line {at + 1}: a code block without end") from None
        marked = NOT_RUN.match(lines[at - 1]) if at else None
        text = "".join(f"{line}\n" for line in lines[at + 1 : end])
        found.append(Block(at + 1, fence[1], text, marked[1] if marked else None))
        at = end + 1
    return found


class Reader:
    """Does what a document says. ``names`` are replaced in the text: addresses and names of this run.

    ``folder`` is taken for a checkout. Failures are AssertionErrors that show the output.
    """

    def __init__(self, folder: pathlib.Path, names: Mapping[str, str], environ: Mapping[str, str]) -> None:
        self.folder = folder
        self.names = dict(names)
        self.environ = dict(environ)
        self.port = int(self.environ["STREAMFLOW_WEB_PORT"])
        self._background: subprocess.Popen[bytes] | None = None

    def run(self, block: Block, wanted: Mapping[str, str]) -> None:
        """``wanted``: a line's beginning -> what its output holds, in the end."""
        if block.language == "python":
            self._program(block)
        elif block.language == "js":
            named = SCRIPT.match(block.text)
            assert named is not None, f"line {block.line}: a script needs a name"
            (self.folder / named[1]).write_text(self._here(block.text))
        elif block.language == "sh":
            for line in filter(None, block.text.splitlines()):
                outputs = [text for begin, text in wanted.items() if line.startswith(begin)]
                self._line(line, outputs)

    def _program(self, block: Block) -> None:
        text = self._here(block.text)
        named = FILE.match(text)
        path = self.folder / (named[1] if named else f"block_{block.line}.py")
        before = path.read_text() if named and named[2] else ""
        path.write_text(before + text)
        self._shell(f"{sys.executable} -c 'import {path.stem}'")

    def _line(self, line: str, wanted: list[str]) -> None:
        line = self._here(line)
        if SERVES.match(line):
            self._serve(line)
            return
        output = self._shell(line)
        end = time.monotonic() + LINE_S
        # As somebody who looks again: what was sent is counted within a moment.
        while missing := [text for text in wanted if not re.search(text, output)]:
            assert time.monotonic() < end, f"$ {line}\n{output}\nhas no {missing}\n{self._log()}"
            time.sleep(POLL_S)
            output = self._shell(line)

    def _here(self, text: str) -> str:
        for name, ours in self.names.items():
            text = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", ours, text)
        return text

    def _shell(self, line: str) -> str:
        """Runs a line; what it exports holds from then on."""
        kept = self.folder / ".environment"
        script = f"{line}\nstatus=$?\nenv -0 > {kept}\nexit $status\n"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LINE_S,
            check=False,
        )
        output = done.stdout.decode(errors="replace")
        assert done.returncode == 0, f"$ {line}\n{output}\nexit code {done.returncode}\n{self._log()}"
        pairs = (pair.partition("=") for pair in kept.read_text().split("\0") if pair)
        self.environ = {name: value for name, _, value in pairs}
        return output

    def _serve(self, line: str) -> None:
        self.close()
        if line == "make demo":
            line = f"streamflow demo --port {self.port}"  # what it runs when everything is installed
        with (self.folder / ".log").open("wb") as log:
            self._background = subprocess.Popen(
                ["bash", "-c", f"exec {line}"],
                cwd=self.folder,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + READY_S
        while not self._ready():
            assert self._background.poll() is None, f"$ {line}\n{self._log()}"
            assert time.monotonic() < end, f"$ {line}\nis not ready\n{self._log()}"
            time.sleep(POLL_S)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=10) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _log(self) -> str:
        path = self.folder / ".log"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""

    def close(self) -> None:
        """Ends what runs in the background, as Ctrl-C would."""
        process, self._background = self._background, None
        if process is None:
            return
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def checkout(root: pathlib.Path, folder: pathlib.Path) -> None:
    """Makes ``folder`` look like an installed checkout."""
    shutil.copytree(root / "agents", folder / "agents", ignore=shutil.ignore_patterns("__pycache__"))
    with contextlib.suppress(FileNotFoundError):
        (folder / ".venv").symlink_to(pathlib.Path(sys.prefix), target_is_directory=True)


def path_with(*folders: pathlib.Path) -> str:
    """The path, with these in front."""
    return os.pathsep.join([*map(str, folders), os.environ["PATH"]])

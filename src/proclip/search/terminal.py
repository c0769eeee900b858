"""Pictures in a terminal that can show them, and in the system's viewer."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Literal

from ..errors import ProclipError

Protocol = Literal["kitty", "iterm2"]
CHUNK = 4096
"""Characters of base64 in one escape code of kitty's protocol, at most."""
_KITTY_TERMS = ("xterm-kitty", "xterm-ghostty")
_KITTY_PROGRAMS = ("ghostty",)
_ITERM2_PROGRAMS = ("iTerm.app", "WezTerm", "mintty")


def picture_protocol(out: IO[str], environment: Mapping[str, str]) -> Protocol | None:
    """How the terminal behind `out` shows pictures, by what it says of itself; None where it does not, or is none.

    Within tmux and screen none, for they pass the escape codes on only when they are told to.
    """
    if not out.isatty() or "TMUX" in environment or environment.get("TERM", "").startswith(("screen", "tmux", "dumb")):
        return None
    program = environment.get("TERM_PROGRAM", "")
    if environment.get("TERM") in _KITTY_TERMS or "KITTY_WINDOW_ID" in environment or program in _KITTY_PROGRAMS:
        return "kitty"
    if program in _ITERM2_PROGRAMS or environment.get("LC_TERMINAL") == "iTerm2":
        return "iterm2"
    return None


def inline_picture(png: bytes, protocol: Protocol, rows: int = 6) -> str:
    """Escape codes that show a picture, so many lines high, with the cursor below it at the end.

    Args:
        png: a PNG file's bytes.
        protocol: kitty's graphics protocol (https://sw.kovidgoyal.net/kitty/graphics-protocol/) or iTerm2's inline
            images (https://iterm2.com/documentation-images.html).
        rows: lines of text.
    """
    data = base64.b64encode(png).decode()
    if protocol == "iterm2":
        settings = f"inline=1;size={len(png)};height={rows};preserveAspectRatio=1"
        return f"\x1b]1337;File={settings}:{data}\x07\n"
    pieces = [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]
    codes = []
    for number, piece in enumerate(pieces):
        first = f"a=T,f=100,q=2,r={rows}," if not number else ""  # q=2: the terminal does not answer
        codes.append(f"\x1b_G{first}m={int(number < len(pieces) - 1)};{piece}\x1b\\")
    return "".join(codes) + "\n"


def viewer_command(path: Path, platform: str = sys.platform) -> list[str]:
    """The command that opens a file with the system's viewer; on Windows `os.startfile` does, without one."""
    return [] if platform == "win32" else ["open" if platform == "darwin" else "xdg-open", str(path)]


def open_in_viewer(path: Path) -> None:
    """Open a file with the system's viewer, and do not wait for it.

    Raises:
        ProclipError: the system has none.
    """
    command = viewer_command(path)
    if not command:
        os.startfile(path)  # type: ignore[attr-defined]
        return
    try:
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise ProclipError(f"--open: {command[0]} cannot be run: {error.strerror}") from None

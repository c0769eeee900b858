"""Pictures in a terminal: only where it says that it shows them, in the protocols' own form."""

from __future__ import annotations

import base64
import io
import re
import sys
from pathlib import Path

import pytest
from picture_files import drawn
from PIL import Image

from proclip.errors import ProclipError
from proclip.search.pictures import thumbnail
from proclip.search.terminal import inline_picture, open_in_viewer, picture_protocol, viewer_command


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "protocol"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm2"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, "iterm2"),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, "iterm2"),
        ({"TERM": "xterm-256color"}, None),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "Apple_Terminal"}, None),
        ({"TERM": "dumb", "LC_TERMINAL": "iTerm2"}, None),
        ({"TERM": "tmux-256color", "TMUX": "/tmp/x", "KITTY_WINDOW_ID": "1"}, None),
        ({"TERM": "screen", "LC_TERMINAL": "iTerm2"}, None),
        ({}, None),
    ],
)
def test_the_terminal_is_known_by_what_it_says(environment: dict[str, str], protocol: str | None) -> None:
    assert picture_protocol(Terminal(), environment) == protocol
    assert picture_protocol(io.StringIO(), environment) is None  # a pipe or a file never


def test_kitty() -> None:
    png = thumbnail(drawn(1, (400, 300)), 200)
    codes = re.findall(r"\x1b_G(.*?);(.*?)\x1b\\", text := inline_picture(png, "kitty", rows=5))
    assert base64.b64decode("".join(data for _, data in codes)) == png
    assert codes[0][0] == "a=T,f=100,q=2,r=5,m=1" and len(codes) > 1
    assert [settings for settings, _ in codes[1:]] == ["m=1"] * (len(codes) - 2) + ["m=0"]
    assert all(len(data) <= 4096 for _, data in codes) and all(len(data) % 4 == 0 for _, data in codes)
    assert text.endswith("\x1b\\\n")


def test_a_small_picture_is_one_code() -> None:
    (code,) = re.findall(r"\x1b_G(.*?);", inline_picture(thumbnail(drawn(1), 8), "kitty"))
    assert code.endswith("m=0")


def test_iterm2() -> None:
    png = thumbnail(drawn(2), 20)
    found = re.fullmatch(r"\x1b\]1337;File=(.*?):(.*?)\x07\n", inline_picture(png, "iterm2"))
    assert found is not None and base64.b64decode(found[2]) == png
    assert dict(pair.split("=") for pair in found[1].split(";")) == {
        "inline": "1", "size": str(len(png)), "height": "6", "preserveAspectRatio": "1",
    }  # fmt: skip


def test_a_thumbnail_keeps_its_shape_and_never_grows() -> None:
    image = Image.open(io.BytesIO(thumbnail(drawn(3, (300, 100)), 60)))
    assert (image.format, image.size) == ("PNG", (60, 20))
    assert Image.open(io.BytesIO(thumbnail(drawn(3, (30, 10)), 60))).size == (30, 10)


@pytest.mark.parametrize(("platform", "command"), [("linux", "xdg-open"), ("darwin", "open")])
def test_viewers(platform: str, command: str) -> None:
    assert viewer_command(Path("/a b/c.jpg"), platform) == [command, "/a b/c.jpg"]


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="the command is xdg-open")
def test_the_viewer_is_called_with_the_path_and_its_absence_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProclipError, match="--open: xdg-open cannot be run: No such file"):
        open_in_viewer(tmp_path / "a.jpg")
    called = []
    monkeypatch.setattr("proclip.search.terminal.subprocess.Popen", lambda command, **_: called.append(command))
    open_in_viewer(tmp_path / "a.jpg")
    assert called == [["xdg-open", str(tmp_path / "a.jpg")]]

"""Errors that a user can mend. The command line prints them as one line, without a traceback."""

from __future__ import annotations


class ProclipError(Exception):
    """Bad input: the message names the file, key or field at fault and what would be right."""


class NotHere(ProclipError):
    """A checkpoint that is named is neither on this machine nor to be had from the hub."""


class Preempted(SystemExit):
    """SIGTERM came: what is done is kept, the same command goes on from here, and the process ends with status 0."""

    def __init__(self, where: str) -> None:
        super().__init__(0)
        self.where = where
        """What is done, such as stage and step, in words; empty in all processes but the main one."""


def one_line(error: BaseException, limit: int = 300) -> str:
    """What another library's error says, for a message of ours: one line of at most `limit` characters, never empty."""
    return " ".join(str(error).split())[:limit] or type(error).__name__

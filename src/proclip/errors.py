"""Errors that a user can mend. The command line prints them as one line, without a traceback."""

from __future__ import annotations


class ProclipError(Exception):
    """Bad input: the message names the file, key or field at fault and what would be right."""

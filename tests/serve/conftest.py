"""One server for the tests that change nothing in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from serving import Client, running


@pytest.fixture(scope="session")
def server() -> Iterator[Client]:
    """With an index, without a key."""
    with running() as client:
        yield client

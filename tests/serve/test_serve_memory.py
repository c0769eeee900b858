"""The memory of the server, in a process of its own: what is set there holds for the whole process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's malloc")
def test_what_a_batch_used_is_kept_for_the_next() -> None:
    code = """
import resource, threading
import numpy as np
from proclip.serve.server import keep_memory

def faulted():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def batches():
    for _ in range(8):
        arrays = [np.ones(2**21, np.float32) for _ in range(3)]
        del arrays
    counts.append(faulted() - start)

counts = []
for prepare in (lambda: None, keep_memory):
    prepare()
    start = faulted()
    thread = threading.Thread(target=batches)
    thread.start()
    thread.join()
print(*counts)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after < before / 3

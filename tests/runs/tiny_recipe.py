"""What the recipes of these tests have in common."""

from __future__ import annotations

HEAD = """
name = "tiny"
clip = "{clip}"

[embedder]
model = "{llm}"
dtype = "float32"
layer = 1

[data]
dataset = "{world}"
store = "{store}"

[adapter]
num_blocks = 1
"""
"""Up to the adapter, whose table goes on with what a test appends."""
STAGES = """
[distill]
captions = ["short"]
epochs = 1
batch_size = 4

[tune]
captions = ["short"]
epochs = 1
batch_size = 4
"""
"""Both stages, one pass each."""

"""A graph in ONNX Runtime: opened, held against the manifest, run; every error names the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ProclipError, one_line
from .manifest import FILE

Width = tuple[str, int] | None
"""Field of the manifest that says how long an array's last axis is, and what it says; None where that is open."""
FATAL = 4
"""Of ONNX Runtime's log: what is less is told by our errors, once."""


class Graph:
    """One ``.onnx`` file of an export.

    Args:
        path: of the file.
        part: of the manifest, for messages.
        takes: names of the inputs, and their widths.
        gives: name of the output, and its width.
        providers: of ONNX Runtime.
        threads: 0 is as many as there are cores.

    Raises:
        ProclipError: ONNX Runtime cannot load it, or it is not what the manifest says.
    """

    def __init__(
        self,
        path: Path,
        part: str,
        takes: Mapping[str, Width],
        gives: tuple[str, Width],
        providers: Sequence[str],
        threads: int,
    ) -> None:
        import onnxruntime

        self.path, self._options = path, onnxruntime.RunOptions()
        self._options.log_severity_level = FATAL
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, FATAL
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
        except Exception as error:  # ONNX Runtime's own classes share no base but this
            raise ProclipError(f"{path} cannot be loaded by ONNX Runtime: {one_line(error)}") from None
        self._check(part, takes, gives)

    def _check(self, part: str, takes: Mapping[str, Width], gives: tuple[str, Width]) -> None:
        manifest, name = self.path.parent / FILE, self.path.name
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        found = [sorted(arg.name for arg in inputs), [arg.name for arg in outputs]]
        if found != (wanted := [sorted(takes), [gives[0]]]):
            (has, makes), (needs, makes_there) = ((", ".join(names) for names in side) for side in (found, wanted))
            raise ProclipError(
                f"{manifest}: {part}: {name} takes {has} and gives {makes}, wanted are {needs} and {makes_there}"
            )
        widths = {**takes, gives[0]: gives[1]}
        for arg in (*inputs, *outputs):
            width, last = widths[arg.name], arg.shape[-1]
            if width is not None and isinstance(last, int) and last != width[1]:
                raise ProclipError(f"{manifest}: {width[0]} is {width[1]}, but {arg.name} of {name} has {last}")

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """The output for arrays by the inputs' names.

        Raises:
            ProclipError: ONNX Runtime cannot compute it.
        """
        try:
            found: npt.NDArray[np.float32] = self._session.run(None, dict(inputs), self._options)[0]
        except Exception as error:  # ONNX Runtime's classes share no other base
            raise ProclipError(f"{self.path} cannot be run: {one_line(error)}") from None
        return found

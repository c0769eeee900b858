"""The EMA teacher of stage 2."""

from __future__ import annotations

import torch
from torch import nn

from ..distributed import local


@torch.no_grad()
def update_ema(student: nn.Module, teacher: nn.Module, decay: float) -> None:
    """Move the teacher towards the student: ``teacher <- decay * teacher + (1 - decay) * student``.

    Parameters are averaged, buffers copied; what the student does not train is left alone. After n steps from
    teacher_0 with a fixed student the teacher is ``decay^n teacher_0 + (1 - decay^n) student``. Paper: the EMA teacher
    of stage 2, a = 0.999.

    Args:
        student: the tower being trained.
        teacher: a copy of it, same names and shapes, and sharded alike if it is.
        decay: a, in [0, 1]; near 1 is slow.

    Raises:
        ValueError: the two do not have the same parameters.
    """
    student_parameters, teacher_parameters = dict(student.named_parameters()), dict(teacher.named_parameters())
    if student_parameters.keys() != teacher_parameters.keys():
        raise ValueError("student and teacher have different parameters")
    names = [name for name, parameter in student_parameters.items() if parameter.requires_grad]
    teachers, students = ([local(named[n].data) for n in names] for named in (teacher_parameters, student_parameters))
    torch._foreach_lerp_(teachers, students, 1.0 - decay)
    for buffer, source in zip(teacher.buffers(), student.buffers(), strict=True):
        buffer.copy_(source)

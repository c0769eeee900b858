"""A probe is fitted once for the same features: methods that lock the image tower all have the original's."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from ..files import read_json, write_json
from ..results.outcome_file import read_outcomes, write_outcomes
from .contents import image_keys
from .encoders import Encoders, encode_distinct
from .kinds import measure
from .measure import Measured
from .tasks import ProbeTask


def measure_probe(task: ProbeTask, encoders: Encoders, cache: Path | None) -> Measured:
    """`measure` for a probe; what was found for the same task and the same features is read again.

    Args:
        task: the probe.
        encoders: the model.
        cache: folder; None measures anew.
    """
    if cache is None:
        return measure(task, encoders)
    digest = hashlib.sha256(json.dumps(asdict(task), ensure_ascii=False).encode())
    digest.update(encode_distinct(encoders.image_features, image_keys([task])).numpy().tobytes())
    folder = cache / "probes"
    path = folder / f"{digest.hexdigest()[:20]}.json"
    outcomes = path.with_suffix(".safetensors")
    if path.is_file() and outcomes.is_file():
        found = read_json(path)
        return Measured(outcomes=read_outcomes(outcomes), chance=found["chance"], notes=found["notes"])
    measured = measure(task, encoders)
    folder.mkdir(parents=True, exist_ok=True)
    write_outcomes(outcomes, measured.outcomes)
    write_json(path, {"chance": dict(measured.chance), "notes": dict(measured.notes)})
    return measured

"""Recipes from TOML and back, checked against the schema.

An unknown key is an error that names the nearest valid one; a value of the wrong type or out of range is an error
that names the field. `dump` writes a resolved recipe back as TOML, so a run folder can be read and repeated without
executing code.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from ..errors import ProclipError
from .ranges import require
from .schema import Recipe

T = TypeVar("T")
SHIPPED = Path(__file__).resolve().parents[1] / "recipes"
"""Recipes inside the package."""
GONE = {"tune.lock_image": "tune.image.mode = 'locked' where it was true"} | {
    f"{stage}.optim.lr_by_group": f"[[{stage}.optim.rules]] with match = '^GROUP' and lr"
    for stage in ("distill", "tune", "pretrain")
}
"""Keys of earlier versions, and what says the same now."""
NOTHING = "none"
"""TOML has no null: as the value of a table or number that may be left out it leaves that out, as in
``--set distill=none``."""


def _nearest(key: str, valid: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"valid keys: {', '.join(sorted(valid))}"


def _convert(value: Any, annotation: Any, where: str) -> Any:
    """`value` as TOML or JSON gave it, as the type that a field declares."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        wanted = _member(value, [a for a in args if a is not type(None)])
        if type(None) in args and (value is None or (value == NOTHING and wanted is not str)):
            return None
        if dataclasses.is_dataclass(wanted):
            require(isinstance(value, Mapping), where, f"a table, or {NOTHING!r} to leave it out", value)
        return _convert(value, wanted, where)
    if dataclasses.is_dataclass(annotation):
        return from_dict(typing.cast(type, annotation), value, where=where)
    if origin is Literal:
        require(value in args, where, "one of " + ", ".join(repr(a) for a in args), value)
        return value
    if origin is tuple:
        require(isinstance(value, (list, tuple)), where, "a list", value)
        item_types = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        require(len(value) == len(item_types), where, f"a list of {len(item_types)}", value)
        return tuple(_convert(v, t, f"{where}[{i}]") for i, (v, t) in enumerate(zip(value, item_types, strict=True)))
    if origin is not None and issubclass(origin, Mapping):
        require(isinstance(value, Mapping), where, "a table", value)
        return {str(k): _convert(v, args[1], f"{where}.{k}") for k, v in value.items()}
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    require(not isinstance(value, float) or math.isfinite(value), where, "a finite number", value)
    good = isinstance(value, annotation) and not (isinstance(value, bool) and annotation is not bool)
    require(good, where, f"of type {annotation.__name__}", value)
    return value


def _member(value: Any, members: Sequence[Any]) -> Any:
    """Of a union the type whose form a value has: a list, a table, or else the first."""
    for form, classes in ((Mapping, Mapping), ((list, tuple), tuple)):
        fits = [m for m in members if isinstance(o := typing.get_origin(m), type) and issubclass(o, classes)]
        if fits and isinstance(value, form):
            return fits[0]
    return members[0]


def from_dict(cls: type[T], values: Mapping[str, Any], *, where: str = "") -> T:
    """Build the config dataclass `cls`, checking names, types and ranges.

    Raises:
        ProclipError: an unknown or missing key, a wrong type, a value out of range; the message names the field.
    """
    require(isinstance(values, Mapping), where or "the recipe", "a table", values)
    hints = typing.get_type_hints(cls)
    prefix = f"{where}." if where else ""
    for key in values:
        if prefix + key in GONE:
            raise ProclipError(f"{prefix + key!r} is no key any more: write {GONE[prefix + key]}")
        if key not in hints:
            raise ProclipError(f"unknown key {prefix + key!r}: {_nearest(key, list(hints))}")
    for f in dataclasses.fields(typing.cast(Any, cls)):
        if f.name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise ProclipError(f"missing key {prefix + f.name!r}")
        if f.name in values and f.default_factory is not dataclasses.MISSING and isinstance(values[f.name], Mapping):
            default = f.default_factory()  # a table changes the field's own default, not the class's
            values = (
                {**values, f.name: {**to_dict(default), **values[f.name]}}
                if dataclasses.is_dataclass(default)
                else values
            )
    return cls(**{k: _convert(v, hints[k], prefix + k) for k, v in values.items()})


def _parse_setting(setting: str) -> tuple[list[str], Any]:
    path, equals, text = setting.partition("=")
    if not equals or not path.strip():
        raise ProclipError(f"--set {setting!r}: write it as key.subkey=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string
    return path.strip().split("."), value


def _merge(values: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for depth, key in enumerate(path[:-1]):
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise ProclipError(f"--set {'.'.join(path)}: {'.'.join(path[: depth + 1])!r} is a value, not a table")
    values[path[-1]] = value


def merge_settings(values: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """The values of a recipe with ``key.subkey=value`` settings applied in order; `values` itself changes.

    Raises:
        ProclipError: a setting is not of that form, or its path goes through a value that is no table.
    """
    for setting in settings:
        _merge(values, *_parse_setting(setting))
    return values


def load_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ProclipError: the file is missing or is not TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (FileNotFoundError, IsADirectoryError):
        raise ProclipError(f"no recipe at {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProclipError(f"{path} is not valid TOML: {error}") from None
    except RecursionError:
        raise ProclipError(f"{path} is not valid TOML: nested too deeply") from None


def _overlay(values: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Tables merged key by key; any other value of `above` replaces that of `values`."""
    merged = dict(values)
    for key, value in above.items():
        below = merged.get(key)
        merged[key] = _overlay(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _extended(path: Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The values of a recipe on top of those that it extends."""
    if path.resolve() in below:
        raise ProclipError(f"{path} extends itself, by way of {' and '.join(str(p) for p in below)}")
    values = load_toml(path)
    names = values.pop("extends", [])
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ProclipError(
            f"{path}: extends must be the path of a recipe beside it, the name of one that ships, or a list of them, "
            f"not {names!r}"
        )
    merged: dict[str, Any] = {}
    for name in names:
        merged = _overlay(merged, _extended(_base(path, name), (*below, path.resolve())))
    return _overlay(merged, values)


def _base(path: Path, name: str) -> Path:
    """The recipe that one extends: a file beside it, else one that ships, such as ``paper/proclip_vit-l-14_30m``."""
    beside, shipped = path.parent / name, SHIPPED / f"{name.removesuffix('.toml')}.toml"
    return shipped if shipped.is_file() and not beside.exists() else beside


def load_recipe(path: str | Path, settings: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply ``key.subkey=value`` settings in order.

    ``extends = "other.toml"`` (or a list, later ones above earlier) starts from other recipes; the path is relative to
    the recipe's own folder. A setting may name a stage that the recipe leaves out: the stage is then added with its
    defaults.

    Raises:
        ProclipError: a file cannot be read or extends itself, or a key or value is not valid.
    """
    values = merge_settings(_extended(Path(path)), settings)
    try:
        return from_dict(Recipe, values)
    except ProclipError as error:
        raise ProclipError(f"{path}: {error}") from None


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain JSON-able values, None left out."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            items = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
            return {k: plain(v) for k, v in items if v is not None}
        if isinstance(value, Mapping):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        return value

    result = plain(config)
    assert isinstance(result, dict)
    return result


def _key(name: str) -> str:
    """A TOML key: bare where TOML allows it, else quoted."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)


def _inline(value: Any) -> str:
    """A value of TOML in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def dump(config: Any) -> str:
    """A config as TOML that `load_recipe` reads back to an equal one."""

    def table(values: Mapping[str, Any], path: str) -> list[str]:
        lines = [f"{_key(k)} = {_inline(v)}" for k, v in values.items() if not isinstance(v, Mapping)]
        for key, value in values.items():
            if isinstance(value, Mapping):
                name = f"{path}.{_key(key)}" if path else _key(key)
                lines += ["", f"[{name}]", *table(value, name)]
        return lines

    return "\n".join(table(to_dict(config), "")) + "\n"


def _changed(value: Any) -> Any:
    """A config's fields that are not at their defaults, as plain values; without those that change no model."""
    if isinstance(value, tuple):
        return [_changed(one) for one in value]
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    changed = {}
    for f in dataclasses.fields(value):
        own = getattr(value, f.name)
        default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        if f.metadata.get("hashed", True) and not _alike(own, default):
            changed[f.name] = _changed(own)
    return changed


def _alike(one: Any, other: Any) -> bool:
    """Whether two values are equal, but for fields that change no model."""
    if not dataclasses.is_dataclass(one) or type(one) is not type(other):
        return bool(one == other)
    hashed = [f.name for f in dataclasses.fields(one) if f.metadata.get("hashed", True)]
    return all(_alike(getattr(one, name), getattr(other, name)) for name in hashed)


def config_hash(config: Any) -> str:
    """Twelve hex digits that change when any field does.

    Fields at their defaults do not count, so that a field added later leaves the hashes of earlier recipes as they are.
    """
    return hashlib.sha256(json.dumps(_changed(config), sort_keys=True).encode()).hexdigest()[:12]

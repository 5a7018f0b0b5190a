"""Nested dicts by dotted keys, as in `-S stage1.lr=1e-3`."""

from typing import Any

from prologue.core.conventions import WITHOUT_EFFECT


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one with dotted keys."""
    items: dict[str, Any] = {}
    for key, value in values.items():
        items |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return items


def effective(params: dict[str, Any]) -> dict[str, Any]:
    """Params by dotted key, without those that change no result."""
    return {key: value for key, value in flat(params).items() if key.rpartition(".")[2] not in WITHOUT_EFFECT}


def value_at(values: dict[str, Any], key: str) -> Any:
    """The value at a dotted key. Raises KeyError where there is none."""
    value: Any = values
    for part in key.split("."):
        value = value[part]
    return value

"""What a test asks of the calls of a function."""

from typing import Any

import pytest


def record_calls(
    patch: pytest.MonkeyPatch, owner: object, name: str, dies_after: int | None = None
) -> list[tuple[Any, ...]]:
    """Note the arguments of every call of a function from now on; the one after `dies_after` is interrupted."""
    calls: list[tuple[Any, ...]] = []
    function = getattr(owner, name)

    def noted(*arguments: Any) -> Any:
        if len(calls) == dies_after:
            raise KeyboardInterrupt
        calls.append(arguments)
        return function(*arguments)

    patch.setattr(owner, name, noted)
    return calls

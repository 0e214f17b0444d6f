"""The type of callbacks that report progress."""

from collections.abc import Callable

Progress = Callable[[float, float], None]  # (done, total), both in the unit that the called function works in


def ignore(*_: object) -> None:
    """A callback that does nothing."""

"""What a check says of an object that breaks a promise."""

from collections.abc import Callable
from typing import Any

import pytest


def broken_promise(check: Callable[..., None], value: object, **options: Any) -> str:
    """The one line that ``check(value)`` fails with."""
    with pytest.raises(AssertionError) as caught:
        check(value, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)

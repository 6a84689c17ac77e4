"""Whether JSON from disk is what it should be, said by a pattern of the same shape."""

from __future__ import annotations

from typing import Any

MISSING = object()
NAMES = {str: "text", float: "a number", int: "a whole number", bool: "true or false", dict: "a group of keys"}


def mismatch(value: Any, pattern: Any, where: str = "") -> str | None:
    """Where a JSON value differs from a pattern, and what was expected there; None if it fits.

    A pattern is a type (float takes whole numbers too), None, a tuple of patterns of which one must fit, a list of the
    one pattern of all its elements, or a dict of the keys that must be there.
    """
    if value is MISSING:
        return f"{where} is not there"
    if isinstance(pattern, tuple):
        found = [mismatch(value, one, where) for one in pattern]
        return None if None in found else found[0]
    if isinstance(pattern, list):
        elements = enumerate(value) if isinstance(value, list) else None
        if elements is None:
            return f"expected {where or 'all of it'} to be a list; got {value!r:.60}"
        return next(filter(None, (mismatch(one, pattern[0], f"{where}[{i}]") for i, one in elements)), None)
    if isinstance(pattern, dict):
        if not isinstance(value, dict):
            return f"expected {where or 'all of it'} to be a group of keys; got {value!r:.60}"
        inside = ((value.get(key, MISSING), one, f"{where}.{key}".lstrip(".")) for key, one in pattern.items())
        return next(filter(None, (mismatch(*one) for one in inside)), None)
    kind = (int, float) if pattern is float else type(None) if pattern is None else pattern
    if isinstance(value, kind) and (pattern in (bool, object) or not isinstance(value, bool)):
        return None
    return f"expected {where} to be {NAMES.get(pattern, 'null')}; got {value!r:.60}"

"""What a pattern of JSON lets through, and what it says of the rest."""

from typing import Any

import pytest

from envs.patterns import mismatch

PATTERN = {"id": str, "score": (float, None), "played": bool, "steps": int, "returns": [float], "of": {"min": float}}
FITTING = {
    "id": "x",
    "score": None,
    "played": True,
    "steps": 3,
    "returns": [1, 2.5],
    "of": {"min": 0},
    "more": object(),
}


def test_what_fits_is_let_through() -> None:
    assert mismatch(FITTING, PATTERN) is None
    assert mismatch({**FITTING, "score": 1, "returns": []}, PATTERN) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"id": 3}, "expected id to be text; got 3"),
        ({"score": "high"}, "expected score to be a number; got 'high'"),
        ({"played": 1}, "expected played to be true or false; got 1"),
        ({"steps": True}, "expected steps to be a whole number; got True"),
        ({"steps": 1.5}, "expected steps to be a whole number; got 1.5"),
        ({"returns": {"a": 1}}, "expected returns to be a list; got {'a': 1}"),
        ({"returns": [1.0, None]}, "expected returns[1] to be a number; got None"),
        ({"of": []}, "expected of to be a group of keys; got []"),
        ({"of": {}}, "of.min is not there"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], said: str) -> None:
    assert mismatch({**FITTING, **changes}, PATTERN) == said


def test_null_and_the_whole_are_named_too() -> None:
    assert mismatch(1, None, "score") == "expected score to be null; got 1"
    assert mismatch([], {"id": str}) == "expected all of it to be a group of keys; got []"

"""What every mechanism has to do, whatever it computes: written once, run for each kind.

A kind's `test_contract.py` has its CASES, a class of them that says what is its own, and

    globals().update(contract())

so that each test here is a test there. `tests/attention/conftest.py` hands it the cases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType

from tests.attention.contract import behaviour, portability

EVERYWHERE = (behaviour, portability)


def contract(*more: ModuleType, without: Sequence[str] = ()) -> dict[str, Callable[..., None]]:
    """Returns the tests by name.

    Args:
        *more: further files of tests, for some kinds.
        without: tests that the kind has in words of its own.
    """
    tests = {
        name: test
        for module in (*EVERYWHERE, *more)
        for name, test in vars(module).items()
        if name.startswith("test_")
    }
    for name in without:
        del tests[name]
    return tests

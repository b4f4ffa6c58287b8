"""One seed for every test here, so that a failure can be run again; clips are slow tests."""

import pytest
import torch

SLOW_FILES = ("test_variants.py",)  # other arguments of mechanisms that the contract holds already


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)  # before the expression of -m decides
def pytest_collection_modifyitems(items):
    """Marks every case of rank 3 as slow: it doubles the time and seldom fails alone."""
    for item in items:
        case = item.callspec.params.get("case") if hasattr(item, "callspec") else None
        if getattr(case, "rank", 2) == 3 or item.path.name in SLOW_FILES:
            item.add_marker(pytest.mark.slow)

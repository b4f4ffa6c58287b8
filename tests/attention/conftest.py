"""Gives a test each case of its file, and marks the rarer ones as slow."""

import pytest

pytest.register_assert_rewrite("tests.attention.contract")

SLOW_FILES = ("test_variants.py",)  # other arguments of mechanisms that the contract holds already


def pytest_generate_tests(metafunc):
    """Gives a test each of its file's CASES as `case`, and each of their widths as `channels`."""
    if "case" not in metafunc.fixturenames:
        return
    cases = metafunc.module.CASES
    if "channels" in metafunc.fixturenames:
        widths = [(case, width) for case in cases for width in case.widths]
        metafunc.parametrize(("case", "channels"), widths, ids=str)
    else:
        metafunc.parametrize("case", cases, ids=str)


@pytest.hookimpl(tryfirst=True)  # before the expression of -m decides
def pytest_collection_modifyitems(items):
    """Marks as slow what seldom fails alone: ranks 1 and 3, and the contract's paper start.

    What the paper start computes is held by the golden vectors and the loops, which stay. An ONNX
    file takes seconds each to make, and has the same operators whatever the start and the
    arguments: those of the rarer cases are looked at in the night.
    """
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        contract = item.path.name == "test_contract.py"
        rare = getattr(params.get("case"), "rank", 2) != 2 or (
            contract and params.get("init") == "paper"
        )
        if rare or item.path.name in SLOW_FILES:
            item.add_marker(pytest.mark.slow)
            if item.originalname.startswith("test_an_onnx_runtime"):
                item.add_marker(pytest.mark.nightly)

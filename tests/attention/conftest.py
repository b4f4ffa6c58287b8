"""Gives a test each case of its file, and marks the rarer ones as slow."""

import pytest

pytest.register_assert_rewrite("tests.attention.contract")

SLOW_FILES = ("test_variants.py",)  # other arguments of mechanisms that the contract holds already


def pytest_generate_tests(metafunc):
    """Gives a test each of its file's CASES as `case`, and each of their widths as `channels`."""
    if "case" not in metafunc.fixturenames:
        return
    cases = metafunc.module.CASES
    if metafunc.config.getoption("markexpr") == "not slow and not nightly":
        cases = [case for case in cases if case.rank == 2]  # the others are slow: see below
    if "channels" in metafunc.fixturenames:
        widths = [(case, width) for case in cases for width in case.widths]
        metafunc.parametrize(("case", "channels"), widths, ids=str)
    else:
        metafunc.parametrize("case", cases, ids=str)


def pytest_ignore_collect(collection_path, config):
    """Does not even read what would be left out."""
    if config.getoption("markexpr") == "not slow and not nightly":
        return collection_path.name in SLOW_FILES or None
    return None


COMPILERS = ("test_an_onnx_runtime", "test_it_exports", "test_it_compiles")  # take seconds each


@pytest.hookimpl(tryfirst=True)  # before the expression of -m decides
def pytest_collection_modifyitems(items):
    """Marks what seldom fails alone: ranks 1 and 3, and the contract's paper start, as slow.

    What the paper start computes is held by the golden vectors and the loops, which stay. Both at
    once, and what compilers make of either, is looked at in the night: it has the same operators
    whatever the start and the arguments.
    """
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        other_rank = getattr(params.get("case"), "rank", 2) != 2
        paper = item.path.name == "test_contract.py" and params.get("init") == "paper"
        variant = item.path.name in SLOW_FILES
        widths = getattr(params.get("case"), "widths", ())
        wide = "channels" in params and params["channels"] in widths[1:]
        if other_rank or paper or variant or wide:
            item.add_marker(pytest.mark.slow)
        compiled = item.originalname.startswith(COMPILERS)
        onnx = item.originalname.startswith(COMPILERS[0])
        if (other_rank and (paper or compiled)) or (onnx and (paper or variant)):
            item.add_marker(pytest.mark.nightly)

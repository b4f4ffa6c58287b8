"""What every test starts from: one thread, one seed, no downloads."""

import gc
import os

import pytest
import torch

# Set before any library that reads it is imported: the suite must not depend on a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("YOLO_OFFLINE", "true")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    # torch.manual_seed() writes down three tracebacks for devices that are not there: 1 ms a test.
    torch.default_generator.manual_seed(0)


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)
    gc.disable()  # while the tests are collected: their million objects all stay


def pytest_collection_finish(session: pytest.Session) -> None:
    gc.freeze()
    gc.enable()


def pytest_unconfigure(config: pytest.Config) -> None:
    gc.unfreeze()

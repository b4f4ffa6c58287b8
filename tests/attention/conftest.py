"""One seed for every test here, so that a failure can be run again."""

import pytest
import torch


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)

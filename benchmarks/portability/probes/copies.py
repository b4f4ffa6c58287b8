"""Copies of an operated network."""

from __future__ import annotations

import copy
import pickle

import torch

from benchmarks.portability.comparing import unequal
from benchmarks.portability.subject import Subject


def copy_and_pickle(subject: Subject) -> str:
    """copy.deepcopy and pickle, there and back; a copy's weights are its own."""
    network, x = subject.network(), subject.input()
    with torch.no_grad():
        expected = network(x)
        copies = [copy.deepcopy(network), pickle.loads(pickle.dumps(network))]
        for parameter in network.parameters():
            parameter.zero_()
        return "".join(unequal(twin(x), expected) for twin in copies[:1]) or unequal(
            copies[1](x), expected
        )

"""The record of surgery in the config that a network's own `save_pretrained` writes."""

import copy
import json
from typing import Any

import pytest
import torch
from torch import nn

import attnsurgeon
from attnsurgeon.splicing.configs import METHOD, recorded, without_guard, write_config
from attnsurgeon.splicing.history import history
from tests.nets.blocks import Net, Plain
from tests.surgery import ready


class Config:
    """As Hugging Face's are: attributes, written as JSON."""

    def to_json_file(self, file: Any) -> None:
        file.write_text(json.dumps(vars(self)))


class Saving(Net):
    """A network that is saved as its weights and its config."""

    def __init__(self, config: Any) -> None:
        super().__init__(Plain(), Plain())
        self.config = self.blocks[0].config = config

    def save_pretrained(self, folder: Any) -> None:
        raise NotImplementedError


def operated(net: nn.Module, **how: Any) -> Any:
    return attnsurgeon.insert(net, "eca", "residual-branch", input_size=(3, 12, 10), **how).model


def test_the_config_holds_the_history_as_json_keeps_it(tmp_path):
    net = operated(ready(Saving(Config())))
    net.config.to_json_file(tmp_path / "config.json")
    read = Config()
    vars(read).update(json.loads((tmp_path / "config.json").read_text()))
    assert recorded(read) == history(net) != ()
    assert read.fusion_config == {METHOD: True}  # type: ignore[attr-defined]


def test_the_network_that_was_copied_and_a_config_that_others_hold_stay_as_they_were():
    config = Config()
    net = ready(Saving(config))
    operated(net)
    assert vars(config) == {}
    operated(net, inplace=True)
    assert vars(config) == {}
    assert net.config is net.blocks[0].config is not config
    assert recorded(net.config) == history(net)


def test_removed_surgery_leaves_nothing_in_the_config():
    net = operated(ready(Saving(Config())))
    attnsurgeon.remove(net)
    assert vars(net.config) == {}


def test_what_stood_there_before_stays():
    config = Config()
    kept = {"quantization_config": {"quant_method": "of another"}, "fusion_config": {"own": True}}
    vars(config).update(copy.deepcopy(kept))
    net = operated(ready(Saving(config)))
    assert net.config.quantization_config == kept["quantization_config"]
    assert net.config.fusion_config == {"own": True, METHOD: True}  # so loading is an error
    assert recorded(net.config) is None
    without_guard(net.config)
    assert vars(net.config) == kept


def test_arguments_that_are_no_values_are_not_recorded():
    net = Saving(Config())
    write_config(net, [{"args": {"made_by": torch.zeros}}])
    assert recorded(net.config) == ()
    assert net.config.fusion_config == {METHOD: True}


@pytest.mark.parametrize("config", [None, {"depth": 2}, Config()])
def test_networks_that_are_not_saved_with_a_config_are_left_alone(config):
    class Other(Net):
        pass

    net = ready(Other(Plain(), Plain()))
    net.config = config
    before = copy.deepcopy(config if not isinstance(config, Config) else vars(config))
    made = operated(net)
    assert (vars(made.config) if isinstance(config, Config) else made.config) == before

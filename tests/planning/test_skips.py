"""A skip is cut where it goes into the decoder: the encoder goes on with what it had."""

import torch

import attnsurgeon
from attnsurgeon.splicing.history import inserted
from tests.nets.families.segmenters import BiSeNet, TransposedUNet, UNet
from tests.surgery import ready

SIZE = (3, 64, 64)


def encoder_ends(net: UNet, x: torch.Tensor) -> list[torch.Tensor]:
    one = net.inc(x)
    two = net.down1(net.pool(one))
    return [one, two, net.down2(net.pool(two))]


def test_attention_at_a_skip_gates_what_crosses_and_nothing_that_goes_down():
    torch.manual_seed(0)
    net, x = ready(TransposedUNet()), torch.randn(2, *SIZE)
    operation = attnsurgeon.insert(
        net, "se", "skip", attn_args={"reduction": 4}, input_size=SIZE, init="paper"
    )
    assert operation.plan.refused == ()
    assert [cut.site.path for cut in operation.plan] == [":cat(0)", ":cat#2(0)", ":cat#3(0)"]
    assert [cut.channels for cut in operation.plan] == [24, 16, 8]
    given: dict[str, torch.Tensor] = {}
    for name, module in inserted(operation.model):
        module.register_forward_hook(lambda m, args, out, n=name: given.update({n: args[0]}))
    with torch.no_grad():
        after, before = operation.model(x), net(x)
        ends = encoder_ends(net, x)
    assert not torch.equal(after, before)
    # In their order the gates are given the encoder's values just as they were without any gate.
    modules = [cut.module_path for cut in operation.plan]
    assert all(torch.equal(given[m], end) for m, end in zip(modules, ends[::-1], strict=True))


def test_attention_at_skips_starts_as_nothing():
    torch.manual_seed(0)
    for net in (ready(UNet(transposed=False)), ready(BiSeNet())):
        operation = attnsurgeon.insert(net, "cbam", "skip", input_size=SIZE)
        x = torch.randn(2, *SIZE)
        assert len(operation.plan) > 1
        assert torch.equal(operation.model(x), net(x))
        assert operation.verify().ok


def test_attention_behind_decoder_blocks_starts_as_nothing():
    torch.manual_seed(0)
    net = ready(UNet(transposed=False))
    operation = attnsurgeon.insert(net, "eca", "decoder", input_size=SIZE)
    assert [cut.site.path for cut in operation.plan] == ["up3.1.2", "up2.1.2", "up1.1.2"]
    x = torch.randn(2, *SIZE)
    assert torch.equal(operation.model(x), net(x))

"""What would each gate cost on ResNet-50, without weights, without a download, in seconds?"""

import attnsurgeon


def main() -> None:
    print(f"{'gate':8} {'params':>12} {'MACs':>16} {'params %':>9} {'MACs %':>8}")
    costs = {}
    for name in ("eca", "simam", "srm", "se", "cbam", "coord"):
        cost = attnsurgeon.estimate("resnet50", name, "bottleneck", init="paper")
        costs[name] = cost
        delta = cost.delta
        print(
            f"{name:8} {delta.params:>+12,} {delta.macs:>+16,} "
            f"{delta.params_percent:>+8.2f}% {delta.macs_percent:>+7.2f}%"
        )
    assert costs["eca"].delta.params == 86
    assert costs["se"].after.params == 28_088_024  # what SENet's own definition counts
    assert costs["simam"].delta.params == 0


if __name__ == "__main__":
    main()

"""CPU seconds of `estimate` against those of `plan`, as ratios in one run.

    python -m benchmarks.pricing [--runs 5] [NETWORK ...]

`estimate` plans and then weighs before and after, so its floor is `plan` alone. Both are run in
turn (A B A B ...) in this process, on networks on meta, after a warm-up of all imports; the ratio
is taken pair by pair. Each mechanism is at its own placement, or at the residual branches where
that takes nothing.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

TARGET = 1.2
NETWORKS = (
    "vit_giant_patch14_224", "maxvit_xlarge_tf_512", "hrnet_w64", "resnet50", "convnext_base",
    "swin_base_patch4_window7_224", "efficientnet_b0",
)  # fmt: skip
MECHANISMS = ("se", "eca", "cbam")


def seconds(run: Callable[[], Any]) -> float:
    gc.collect()  # what others left is not ours
    start = time.process_time()
    run()
    return time.process_time() - start


def measure(name: str, attn: str, runs: int) -> tuple[str | None, list[float], list[float]]:
    """Returns (placement, seconds of plan, seconds of estimate)."""
    import timm
    import torch

    import attnsurgeon

    with torch.device("meta"):
        model = timm.create_model(name)
    where = None
    try:
        attnsurgeon.plan(model, attn)
    except attnsurgeon.SurgeonError:
        where = "residual-branch"
    plans, estimates = [], []
    for _ in range(runs):
        plans.append(seconds(lambda: attnsurgeon.plan(model, attn, where)))
        estimates.append(seconds(lambda: attnsurgeon.estimate(model, attn, where)))
    return where, plans, estimates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("networks", nargs="*", default=NETWORKS, metavar="NETWORK")
    options = parser.parse_args()
    for attn in MECHANISMS:
        measure("resnet18", attn, 1)  # imports and compiled rules
    missed = []
    print("| network | mechanism | plan s | estimate s | ratio | target |")
    print("|---|---|---|---|---|---|")
    for name in options.networks:
        for attn in MECHANISMS:
            where, plans, estimates = measure(name, attn, options.runs)
            ratio = statistics.median(e / p for e, p in zip(estimates, plans, strict=True))
            missed += [] if ratio <= TARGET else [f"{name} {attn}"]
            print(
                f"| {name} | {attn}{f' at {where}' if where else ''} "
                f"| {statistics.median(plans):.2f} | {statistics.median(estimates):.2f} "
                f"| {ratio:.2f} | {TARGET:.2f} |",
                flush=True,
            )
    if missed:
        sys.exit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()

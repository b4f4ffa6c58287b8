"""Channels of the places in known networks that published totals are about."""

RESNET50_BRANCHES = [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3
RESNET50_STAGES = [256, 512, 1024]
RESNET50 = 25_557_032  # parameters, 1000 classes

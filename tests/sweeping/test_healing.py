"""A sweep that was killed between a checkpoint and the note of it can be taken up."""

import json

import pytest

from attnsurgeon.sweeping.healing import heal

pytest.importorskip("pyarrow")


def storage(folder, known, **trials):
    """A sweep's folder as Ray leaves it: of each trial the checkpoints that are there."""
    for trial, there in trials.items():
        for number in there:
            kept = folder / f"variant_{trial}_0_lr=0.1" / f"checkpoint_{number:06d}"
            kept.mkdir(parents=True)
            (kept / "epoch").write_text(str(number))
    state = [
        [
            json.dumps({"trial_id": trial}),
            json.dumps({"last_result": last and {"checkpoint_dir_name": f"checkpoint_{last}"}}),
        ]
        for trial, last in known.items()
    ]
    (folder / "experiment_state-2.json").write_text(json.dumps({"trial_data": state}))
    (folder / "experiment_state-1.json").write_text("an older one")
    return str(folder)


@pytest.mark.parametrize("there", [[2], [2, 3]], ids=["the next", "and one half written"])
def test_the_next_stands_for_the_one_that_is_gone(there, tmp_path):
    path = storage(tmp_path, {"ab_00000": "000001"}, ab_00000=there)
    (made,) = heal(path)
    assert made == f"{path}/variant_ab_00000_0_lr=0.1/checkpoint_000001"
    assert (tmp_path / made / "epoch").read_text() == "2"
    assert heal(path) == ()


def test_nothing_is_done_where_all_is_there_or_nothing_known(tmp_path):
    known = {"ab_00000": "000001", "ab_00001": None, "ab_00002": "000004"}
    path = storage(tmp_path, known, ab_00000=[1, 2], ab_00001=[0], ab_00002=[3], other=[7])
    before = sorted(tmp_path.rglob("*"))
    assert heal(path) == ()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_sweep_that_wrote_nothing_down_yet_is_left_alone(tmp_path):
    assert heal(str(tmp_path)) == ()

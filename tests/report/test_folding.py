"""Runs of equal places: what becomes one row and what does not."""

from attnsurgeon.report.folding import counted_on, fold


def spelled(paths, same=lambda path: ()):
    return [(run.spelled(".."), len(run)) for run in fold(paths, lambda path: path, same)]


def test_places_that_are_numbered_on_are_one_run():
    paths = [f"layer3.{i}.bn3" for i in range(6)]
    assert spelled(paths) == [("layer3.0.bn3 .. layer3.5.bn3", 6)]


def test_a_single_place_is_spelled_as_it_is():
    assert spelled(["layer1.0.bn3"]) == [("layer1.0.bn3", 1)]


def test_another_number_counting_on_starts_a_new_run():
    paths = ["layer1.0.bn3", "layer1.1.bn3", "layer2.1.bn3", "layer2.2.bn3"]
    assert spelled(paths) == [
        ("layer1.0.bn3 .. layer1.1.bn3", 2),
        ("layer2.1.bn3 .. layer2.2.bn3", 2),
    ]


def test_two_numbers_changing_at_once_start_a_new_run():
    assert len(spelled(["layer1.0.bn3", "layer2.1.bn3"])) == 2


def test_places_that_differ_in_what_has_to_be_equal_are_not_folded():
    assert len(spelled(["a.0", "a.1", "a.2"], same=lambda path: path == "a.1")) == 2
    assert len(spelled(["a.0", "a.1", "a.2"])) == 1


def test_interleaved_runs_are_kept_apart():
    paths = [f"blocks.{i}.{name}" for i in range(12) for name in ("proj", "fc2")]
    assert spelled(paths) == [
        ("blocks.0.proj .. blocks.11.proj", 12),
        ("blocks.0.fc2 .. blocks.11.fc2", 12),
    ]


def test_no_place_is_lost_or_moved_within_its_run():
    paths = ["b.2.x", "a.1", "b.3.x", "a.2", "c", "b.5.x"]
    runs = fold(paths, lambda path: path, lambda path: ())
    assert sorted(row for run in runs for row in run.rows) == sorted(paths)
    assert [run.rows for run in runs] == [("b.2.x", "b.3.x", "b.5.x"), ("a.1", "a.2"), ("c",)]


def test_numbers_inside_names_count_too():
    assert counted_on("denselayer1.conv2", "denselayer2.conv2") == 1
    assert counted_on("layer1.0:add", "layer1.0:add#2") is None
    assert counted_on("a.x", "a.y") is None
    assert counted_on("a.1", "a.1") is None

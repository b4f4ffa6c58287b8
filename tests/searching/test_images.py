"""A folder of class folders -> batches with labels, as the network takes them."""

import pytest
import torch

from attnsurgeon.errors import ModelError, UsageError
from attnsurgeon.searching.images import classes_in, lessons_of
from tests.cli.tiny import Decides, Net
from tests.searching.networks import survey_of

image = pytest.importorskip("PIL.Image")


def folder_of(path, classes=7, each=4, size=(24, 40)):
    """A folder for each class; the images of class 3 are all (30, 0, 0) + their place in green."""
    for label in range(classes):
        (path / f"class{label}").mkdir(parents=True)
        for at in range(each):
            colour = (10 * label, at, 0)
            image.new("RGB", size, colour).save(path / f"class{label}" / f"{at}.png")
    return path


@pytest.fixture(scope="module")
def survey():
    return survey_of()


def read_back(batch):
    """(class, place) of each image, from its colours."""
    mean, std = torch.tensor([0.485, 0.456]), torch.tensor([0.229, 0.224])
    images, _ = batch
    values = (images[:, :2, 0, 0] * std + mean) * 255
    return [(round(float(red)) // 10, round(float(green))) for red, green in values]


def test_each_image_has_the_label_of_its_folder_and_every_fourth_of_a_class_judges(
    tmp_path, survey
):
    made = lessons_of(folder_of(tmp_path / "data"), Net(), survey, batch=5)
    train = [one for batch in made.train for one in read_back(batch)]
    held_out = [one for batch in made.held_out for one in read_back(batch)]
    assert sorted(held_out) == [(label, 3) for label in range(7)]
    assert sorted(train) == [(label, at) for label in range(7) for at in range(3)]
    for batch in (*made.train, *made.held_out):
        images, labels = batch
        assert images.shape[1:] == (3, 40, 24)
        assert len(images) <= 5
        assert [label for label, _ in read_back(batch)] == labels.tolist()
    assert train != sorted(train)  # classes stand in turn, not one behind the other


def test_of_many_images_as_many_of_each_class_are_read(tmp_path, survey):
    made = lessons_of(folder_of(tmp_path / "data", each=9), Net(), survey, most=28)
    count = sum(len(labels) for _, labels in (*made.train, *made.held_out))
    assert count == 28


def test_a_folder_that_is_none_is_said(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        classes_in(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        classes_in(tmp_path / "file")
    image.new("RGB", (4, 4)).save(tmp_path / "alone.png")
    with pytest.raises(UsageError, match="no folder in"):
        classes_in(tmp_path)
    (tmp_path / ".hidden").mkdir()
    with pytest.raises(UsageError, match="no folder in"):
        classes_in(tmp_path)


def test_classes_that_are_not_the_networks_are_refused(tmp_path, survey):
    with pytest.raises(ModelError, match="has 3 classes, and the network tells 7 apart"):
        lessons_of(folder_of(tmp_path / "data", classes=3), Net(), survey)


def test_a_class_without_an_image_or_with_one_is_refused(tmp_path, survey):
    folder = folder_of(tmp_path / "data")
    for file in (folder / "class5").iterdir():
        file.unlink()
    with pytest.raises(UsageError, match=r"no image in .*class5"):
        lessons_of(folder, Net(), survey)
    image.new("RGB", (4, 4)).save(folder / "class5" / "one.png")
    with pytest.raises(UsageError, match=r"one image in .*class5"):
        lessons_of(folder, Net(), survey)


def test_an_image_that_is_none_is_named(tmp_path, survey):
    folder = folder_of(tmp_path / "data")
    (folder / "class2" / "1.png").write_text("no image")
    with pytest.raises(UsageError, match=r"class2.1\.png is no image"):
        lessons_of(folder, Net(), survey)


def test_a_network_that_returns_no_scores_is_refused(tmp_path):
    class Map(Net):
        def forward(self, x):
            return self.stem(x)

    with pytest.raises(ModelError, match="trains a classifier"):
        lessons_of(folder_of(tmp_path / "data"), Map(), survey_of(Map()))
    looking = lessons_of(folder_of(tmp_path / "more"), Decides(), survey_of(Decides()))
    assert looking.train

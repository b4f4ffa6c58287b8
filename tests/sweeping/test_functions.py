"""The user's function is found and looked at before anything is started."""

from pathlib import Path

import pytest

from attnsurgeon.errors import UsageError
from attnsurgeon.sweeping.functions import find_train, name_of

FILE = Path(__file__).with_name("training.py")


def test_a_function_of_a_file_is_found():
    found = find_train(f"{FILE}:run", ["epochs", "scale"])
    assert found.__name__ == "run"


@pytest.mark.parametrize(
    ("train", "config", "said"),
    [
        (f"{FILE}:rum", [], "run"),
        (f"{FILE}", [], "which of its names"),
        ("nowhere.py:run", [], "there is no file"),
        (f"{FILE}:not_a_function", [], "is of type int, not a function"),
        (f"{FILE}:takes_nothing", [], r"cannot be called with \(folder, report\)"),
        (f"{FILE}:run", ["momentum"], r"cannot be called with \(folder, report, momentum=\)"),
        (f"{FILE}:run", ["folder"], "'folder' is what every variant is told"),
        (3, [], "is of type int, not a function"),
        (dict, [], "is of type type, not a function"),
    ],
)
def test_what_cannot_train_is_refused(train, config, said):
    with pytest.raises(UsageError, match=said) as error:
        find_train(train, config)
    assert error.value.exit_code == 2


def test_a_function_is_named_by_where_it_lives():
    assert name_of("my.py:run") == "my.py:run"
    assert name_of(find_train).endswith("sweeping.functions:find_train")

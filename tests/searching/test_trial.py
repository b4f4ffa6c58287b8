"""The trial: what candidates gain when trained alone; a journal goes on; seeds are compared."""

import json
import math
import random
import warnings

import pytest
import torch
from torch import nn

import attnsurgeon
from attnsurgeon.checks.verify import randomise_norms
from attnsurgeon.errors import CheckFailed, UsageError
from attnsurgeon.searching import trial as trial_module
from attnsurgeon.searching.journal import Journal
from attnsurgeon.searching.trial import Lessons, Trial, Tried, run_trial, spearman
from tests.cli.tiny import Net
from tests.searching.networks import SIZE, candidates_of, survey_of


def net():
    torch.manual_seed(3)
    made = Net()
    randomise_norms(made)
    return made.eval()


def batches(count=6, seed=5):
    dice = torch.Generator().manual_seed(seed)
    return [
        (torch.rand(4, *SIZE, generator=dice), torch.randint(7, (4,), generator=dice))
        for _ in range(count)
    ]


def tried(model, found, **options):
    lessons = Lessons.of(batches())
    return run_trial(model, found.candidates, lessons, **{"steps": 3, "seeds": 2, **options})


@pytest.fixture(scope="module")
def found():
    return candidates_of(survey_of(net()), "eca", "se")


@pytest.mark.slow
def test_a_gain_is_what_training_that_candidate_alone_takes_off_the_held_out_loss(found):
    """Against the same training written out by hand."""
    model = net()
    made = tried(model, found, rate=1e-2, seeds=1)
    train, held_out = batches()[:3] + batches()[4:], batches()[3:4]

    def loss(one):
        one.eval()
        with torch.no_grad():
            return sum(float(nn.functional.cross_entropy(one(x), y)) for x, y in held_out)

    assert made.base == pytest.approx(loss(model))
    for candidate, result in zip(found.candidates, made.tried, strict=True):
        torch.manual_seed(0)
        operated = attnsurgeon.insert(
            model, candidate.rule.attn.type, [candidate.sites[0].path], input_size=SIZE
        ).model
        # The values that `insert` draws come from its own dice; the trial's from its seed.
        torch.manual_seed(0)
        fresh = trial_module.carry_out(trial_module.full_twin(model), candidate.plan).model
        operated.load_state_dict(fresh.state_dict())
        attnsurgeon.freeze_backbone(operated)
        operated.train()
        ours = [p for p in operated.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(attnsurgeon.param_groups(operated, lr=1e-2))
        for at in torch.randperm(5).tolist()[:3]:
            x, y = train[at]
            optimizer.zero_grad()
            nn.functional.cross_entropy(operated(x), y).backward()
            optimizer.step()
        assert ours
        assert result.gains == (pytest.approx(made.base - loss(operated), abs=1e-6),)
        assert result.gains != (0.0,)


@pytest.mark.slow
def test_the_same_seeds_give_the_same_gains_and_nothing_of_the_network_or_the_dice_moves(found):
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    first, second = tried(model, found), tried(model, found)
    assert first == second
    assert first.tried[0].gains[0] != first.tried[0].gains[1]
    assert torch.equal(state, torch.get_rng_state())
    assert not model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_every_fourth_batch_judges_and_no_more_are_read_than_said():
    numbers = iter(range(10**9))
    lessons = Lessons.of(numbers, lambda model, batch: torch.tensor(1.0))
    assert list(lessons.held_out) == list(range(3, 64, 4))
    assert sorted([*lessons.train, *lessons.held_out]) == list(range(64))
    assert next(numbers) == 64
    two = Lessons.of([1, 2], lambda model, batch: torch.tensor(1.0))
    assert (two.train, two.held_out) == ([1], [2])


@pytest.mark.slow
def test_a_loss_of_the_users_own_judges_batches_of_any_form(found):
    data = [{"image": x, "target": y} for x, y in batches()]

    def loss(model, batch):
        return nn.functional.cross_entropy(model(batch["image"]), batch["target"])

    own = run_trial(net(), found.candidates, Lessons.of(data, loss), steps=3, seeds=1)
    assert own == tried(net(), found, seeds=1)


@pytest.mark.slow
def test_training_that_diverges_is_the_last_in_the_rank_and_no_reason_to_stop(found):
    def loss(model, batch):
        x, y = batch
        value = nn.functional.cross_entropy(model(x), y)
        heavy = sum(p.numel() for p in model.parameters() if p.requires_grad) > 100
        return value * math.nan if heavy and model.training else value

    made = run_trial(net(), found.candidates, Lessons.of(batches(), loss), steps=2, seeds=2)
    by_name = {one.key: one for one in made.tried}
    assert by_name["se at late.norm"].gains == (-math.inf, -math.inf)
    assert by_name["se at late.norm"].spread is None
    assert math.isfinite(by_name["eca at late.norm"].mean)
    assert "se" in made.ranked[-1].key


def test_a_journal_goes_on_where_it_was_broken_off(found, tmp_path, monkeypatch):
    model, file = net(), tmp_path / "trial.jsonl"
    whole = tried(model, found)
    trained = []
    real = trial_module._trained

    def counted(*args, **more):
        if len(trained) == 5:
            raise KeyboardInterrupt
        trained.append(args[1].key)
        return real(*args, **more)

    monkeypatch.setattr(trial_module, "_trained", counted)
    with pytest.raises(KeyboardInterrupt):
        tried(model, found, journal=file)
    assert len(trained) == 5
    with file.open("a") as torn:  # as a process leaves it that was killed while it wrote
        torn.write('{"candidate": "eca at')
    monkeypatch.setattr(trial_module, "_trained", real)
    told = []
    gone_on = tried(model, found, journal=file, tell=lambda *said: told.append(said))
    assert gone_on == whole
    assert len(told) == 2 * len(found.candidates) - 5
    assert told[0] == (f"training {found.candidates[5].key}", 5, 12)
    assert tried(model, found, journal=file, tell=lambda *_: pytest.fail("again")) == whole


@pytest.mark.parametrize("change", ["steps", "rate", "network", "data", "code", "versions"])
def test_the_journal_of_another_trial_is_refused(found, tmp_path, change, monkeypatch):
    file = tmp_path / "trial.jsonl"
    few = candidates_of(survey_of(net()), "eca").candidates[:1]
    args = {"steps": 1, "seeds": 1, "rate": 1e-3}
    run_trial(net(), few, Lessons.of(batches()), journal=file, **args)
    model = net()
    if change == "network":
        model.fc.bias.data.add_(1)
    if change == "code":  # its file was edited since
        monkeypatch.setattr(type(few[0].cuts[0].card), "sha256", "0" * 64, raising=False)
    if change == "versions":
        monkeypatch.setattr("attnsurgeon.searching.trial.__version__", "0.0.1")
    lessons = Lessons.of(batches(seed=6 if change == "data" else 5))
    args |= {"steps": 2} if change == "steps" else {"rate": 1e-2} if change == "rate" else {}
    with pytest.raises(UsageError, match=f"another trial: {change}"):
        run_trial(model, few, lessons, journal=file, **args)


@pytest.mark.parametrize("text", ["", "hello\n", '{"format": "other"}\n', "[]\n", "\x00\x01"])
def test_a_file_that_is_no_journal_is_refused_and_left_as_it_is(tmp_path, text):
    file = tmp_path / "notes.txt"
    file.write_text(text)
    with pytest.raises(UsageError, match="no journal"):
        Journal(file, {"steps": 1})
    assert file.read_text() == text


def test_a_journal_that_cannot_be_written_is_said(tmp_path):
    with pytest.raises(UsageError, match="cannot be written"):
        Journal(tmp_path / "none" / "trial.jsonl", {"steps": 1})


def test_a_journal_holds_plain_json(tmp_path):
    file = tmp_path / "trial.jsonl"
    kept = Journal(file, {"steps": 1})
    kept.add("se at x", 0, 1.5)
    kept.add("se at x", 1, math.inf)
    assert [json.loads(line) for line in file.read_text().splitlines()][1:] == [
        {"candidate": "se at x", "seed": 0, "loss": 1.5},
        {"candidate": "se at x", "seed": 1, "loss": None},
    ]
    again = Journal(file, {"steps": 1})
    assert (again.get("se at x", 0), again.get("se at x", 1), len(again)) == (1.5, math.inf, 2)
    assert again.get("se at y", 0) is None


@pytest.mark.slow
def test_spearman_is_that_of_scipy_with_ties_and_without():
    from scipy.stats import spearmanr

    dice = random.Random(0)
    for _ in range(20):
        first, second = ([dice.choice([dice.random(), 0.5]) for _ in range(9)] for _ in range(2))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = spearmanr(first, second).statistic
        assert spearman(first, second) == pytest.approx(expected)
    assert spearman([1, 2, 3], [1, 1, 1]) is None
    assert spearman([1, 2], [2, 1]) is None
    assert spearman([1, 2, math.inf], [3, 4, 5]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("agreement", "words"),
    [
        ((0.9, 0.8, 1.0), "is stable between seeds: Spearman 0.90 on average, 0.80 at the least"),
        ((0.6,), "is roughly stable"),
        ((0.2, -0.4, 0.3), "is mostly noise between seeds: Spearman 0.03 on average, -0.40"),
        ((None, 0.9), "of 1 pair"),
        ((None,), "too few candidates"),
        ((), "one seed alone"),
    ],
)
def test_how_stable_the_ranking_is_is_said_plainly(agreement, words):
    seeds = 1 if not agreement else 3
    assert words in Trial(1.0, (), 3, 1e-3, seeds, 3, 1, agreement).stability


def test_what_is_chosen_by_gain_is_the_set_with_the_largest_sum_of_gains(monkeypatch):
    """Of three sites: the first gains by se, the second by eca, the third by nothing."""
    gains = {
        "eca at blocks.0.norm": 0.1, "se at blocks.0.norm": 0.4,
        "eca at blocks.1.norm": 0.3, "se at blocks.1.norm": 0.2,
        "eca at late.norm": -0.1, "se at late.norm": -math.inf,
    }  # fmt: skip

    def scripted(model, candidates, lessons, **_more):
        results = tuple(Tried(one.key, (gains[one.key],) * 2) for one in candidates)
        return Trial(1.0, results, 3, 1e-3, 2, 3, 1, (1.0,))

    monkeypatch.setattr("attnsurgeon.searching.suggesting.run_trial", scripted)

    def chosen(**limits):
        made = attnsurgeon.suggest(net(), ["se", "eca"], input_size=SIZE, data=batches(), **limits)
        return {one.key for one in made.chosen}, made

    taken, made = chosen(max_params="+500")
    assert taken == {"se at blocks.0.norm", "eca at blocks.1.norm"}
    assert made.worth == pytest.approx(1)
    assert made.features == pytest.approx(0.5)  # of stage 1 all, of stage 2 nothing
    assert "held-out gain" in made.text
    assert "2 seeds; the ranking is stable" in " ".join(made.text.replace("\n# ", " ").split())
    taken, made = chosen(max_params="+10")
    assert taken == {"eca at blocks.0.norm", "eca at blocks.1.norm"}
    assert made.worth == pytest.approx(0.4 / 0.7, abs=1e-5)
    gains.update(dict.fromkeys(gains, -0.1))
    with pytest.raises(CheckFailed, match="none of the 6 candidates is worth anything"):
        chosen(max_params="+500")


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"seeds": 0}, {"steps": 2.5}])
def test_a_number_that_is_none_to_train_with_is_refused(found, wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        tried(net(), found, **wrong)


def test_a_network_that_has_no_loss_of_its_own_is_refused(found):
    broken = net()
    broken.fc.bias.data.fill_(math.nan)
    with pytest.raises(UsageError, match="the loss of the network as it is"):
        tried(broken, found)

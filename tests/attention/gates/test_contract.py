"""What every gate has to do that looks at nothing but the value that it gates."""

from tests.attention.cases import Case, of_kind
from tests.attention.contract import contract

# At these sizes 7 rows would be a single tile; what is dropped is another thing in each run.
ARGS = {"tse": (("tile", (2, None)),), "bat": (("dropout", 0.0),)}

CASES = [
    Case(card, rank, ARGS.get(card.name, ()))
    for card in of_kind("gate")
    if card.inputs({}) == ("value",)
    for rank in card.ranks
]
globals().update(contract())

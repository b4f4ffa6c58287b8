"""A name -> the text of a new rule file, ready to be changed."""

from __future__ import annotations

from attnsurgeon.errors import RuleError
from attnsurgeon.rules.fields import is_id

_TEMPLATE = """\
version: 1
name: {name}
rules:
  - id: {name}
    message: ECA at the end of every residual branch with at least 128 channels.
    match:                       # every key given must hold
      site: residual-branch      # `attnsurgeon inspect MODEL` lists the sites and their roles
      channels: ">=128"          # quote comparisons
    attn: eca                    # leave it out to name the mechanism with --attn
    # attn: {{type: my.py:MyAttention, args: {{groups: 8}}}}   # your own, with --trust-code
tests:                           # run by `attnsurgeon rules test`; no weights are loaded
  - model: resnet18
    expect:
      {name}: {{count: 6, first: layer2.0.bn2, last: layer4.1.bn2}}
  - model: vgg11
    expect: {{{name}: none}}
"""


def rule_template(name: str) -> str:
    """Returns a rule file called `name`, with comments; the name must be kebab-case."""
    if not is_id(name):
        raise RuleError(
            f"a rule file cannot be called {name!r}", "use kebab-case, such as 'wide-bottlenecks'"
        )
    return _TEMPLATE.format(name=name)

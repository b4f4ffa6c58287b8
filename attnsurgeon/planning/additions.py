"""Survey -> what to say where few of a network's additions are residual ones."""

from __future__ import annotations

from collections.abc import Collection

from attnsurgeon.sites.survey import Survey

_CALLED = {
    "residual-branch": ("residual branch", "residual branches"),
    "residual-block": ("residual block", "residual blocks"),
    "residual-add": ("residual addition", "residual additions"),
}
_SHARE = 2  # additions that are taken, for each that is not: more of these, and nothing is said


def judged_otherwise(survey: Survey, roles: Collection[str]) -> str:
    """Returns how many additions of two values of one shape are no residual ones, and why; "" where
    a placement is for none of these roles, or takes far more than it leaves.

    What stands inside a residual branch (a gate's sum, that of attention) is not counted.
    """
    wanted = [role for role in _CALLED if role in roles]
    if not wanted:
        return ""
    taken = sum(wanted[0] in site.roles for site in survey.sites)
    left = {path: why for path, why in survey.refused.items() if path not in survey.inside}
    if not left or len(left) * _SHARE < taken:
        return ""
    reasons: dict[str, list[str]] = {}
    for path, why in left.items():
        reasons.setdefault(why, []).append(path)
    one, many = _CALLED[wanted[0]]
    found = f"{taken} {one if taken == 1 else many}" if taken else f"no {one}"
    more = f"{len(left)} more" if taken else str(len(left))
    were = "addition was" if len(left) == 1 else "additions were"
    said = [f"{why} ({_span(paths)})" for why, paths in reasons.items()]
    if len(said) > 1:
        said = [f"{len(paths)}: {text}" for paths, text in zip(reasons.values(), said, strict=True)]
    return f"{found}; {more} {were} judged otherwise: {'; '.join(said)}"


def _span(paths: list[str]) -> str:
    return " to ".join(dict.fromkeys((paths[0], paths[-1])))

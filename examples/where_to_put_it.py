"""Find places in a network, narrow them down, and ask why one was left out."""

import timm

import attnsurgeon


def main() -> None:
    model = timm.create_model("mobilenetv3_small_050")
    sites = attnsurgeon.find_sites(model)
    branches = sites.where(site="residual-branch")
    late = branches.where(stage=[-2, -1])
    print(f"{len(sites)} sites, {len(branches)} residual branches, {len(late)} in the last stages:")
    for site in late:
        print(f"  {site.path:20} {site.channels:4} channels at stride {site.stride:.0f}")
    assert 0 < len(late) < len(branches)

    plan = attnsurgeon.plan(model, "se", {"site": "residual-branch", "stage": [-2, -1]})
    assert [cut.site.path for cut in plan] == [site.path for site in late]

    try:
        attnsurgeon.plan(model, "se", {"site": "residual-branch", "channels": ">=4096"})
    except attnsurgeon.SurgeonError as error:
        print(error)
        assert "matches nothing" in str(error)
    else:
        raise AssertionError("a rule that matches nothing must be an error")


if __name__ == "__main__":
    main()

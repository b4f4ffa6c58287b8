"""Networks x mechanisms x placements -> Grid: what each combination costs, one row each."""

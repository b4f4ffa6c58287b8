"""What a network costs, before and after surgery, and what it may cost.

- `operators`: one executed operator -> its price, from fvcore's own handlers
- `scale`, `weighing`, `tree`: model + inputs -> `weight.Weight`, one forward on the meta device
- `alike`, `rehearsal`, `planned`: plan -> both Weights, of what the record shows alike one runs
- `comparing`: two Weights + sites -> Cost, the difference and each site's share
- `budgets`: `+2%`, `30M`, `+0.5ms` -> limits, held against a Cost
- `stepping`, `timing`, `step_memory`: a copy to run, its time in pairs, the memory of a step
- `measuring`: two models + inputs -> `measured.Measurement`
"""

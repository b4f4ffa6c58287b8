"""Network + mechanisms + budgets -> which mechanism goes where: the search behind `suggest`."""

"""Linear algebra on tensors: operators, Lanczos, Hutchinson, densities, the driver."""

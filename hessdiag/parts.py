"""The Hessian and the two parts that it is the sum of, by name."""

PARTS = ("hessian", "gn", "nme")

"""Where an activation's second derivative is not zero, alone and at each call of a network."""

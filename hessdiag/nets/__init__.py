"""Networks: activations, architectures, checkpoints."""

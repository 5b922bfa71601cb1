"""What all tests share."""

import torch

torch.set_num_threads(1)  # tensors here are small, and threads that wait for each other cost more

"""What every test starts from."""

import torch

# The models here are tiny: a second thread would cost more than it brings.
torch.set_num_threads(1)

"""What every test starts from."""

import os

import torch

# Whoever runs the tests may have configured Comet: their chats are not to be filed there.
os.environ["VLMCHAT_TRACK"] = "0"

# The models here are tiny: a second thread would cost more than it brings.
torch.set_num_threads(1)

"""The branch of net-native without convolutions."""

import torch.nn as nn


class FlatNet(nn.Module):
    """3×64×64 → 128 → 10, which sees an image as 12,288 numbers."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(12_288, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, x):
        """Return the logits of a batch of images."""
        return self.net(x)

import torch


class MiniLM(torch.nn.Module):
    """A sentence encoder of all-MiniLM-L6-v2's size: token ids [B, S] int64 in, unit vectors [B, 384] out."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = torch.nn.Embedding(30_522, 384)
        self.positions = torch.nn.Embedding(512, 384)
        self.norm = torch.nn.LayerNorm(384)
        layer = torch.nn.TransformerEncoderLayer(384, 12, 1536, activation="gelu", batch_first=True)
        self.layers = torch.nn.TransformerEncoder(layer, 6)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Embed, encode, and take the mean over the sequence."""
        places = torch.arange(ids.shape[1], device=ids.device)
        hidden = self.layers(self.norm(self.tokens(ids) + self.positions(places)))
        return torch.nn.functional.normalize(hidden.mean(1), dim=1)

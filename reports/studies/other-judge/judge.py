"""A judge that shares nothing with Stage 1's perceptual loss: a small classifier of the training images alone.

    python judge.py train data/shards judge.safetensors
    python judge.py measure judge.safetensors ROW ROW/system.json t1.npz t09.npz

ROW is a clone with a row's models checked out; the draws are of `prologue sample ROW --output t1.npz`. Written is, for
each file of draws, the Frechet distance of the classifier's last features (128) to held-out images and to their
reconstructions by the row's tokenizer, with its 95 % interval over images, and the share of draws that the classifier
takes for their label; the same of the reconstructions, and the floor of the gap.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from prologue.data.images import ImageShards
from prologue.evaluation.generation import floor
from prologue.evaluation.reference import Reference
from prologue.measures.fidelity import frechet_distance, statistics
from prologue.measures.intervals import frechet_deviations, interval
from prologue.models.saved import load_tokenizer
from prologue.sampling.images import decode

EPOCHS, BATCH, RATE, DECAY = 5, 128, 0.1, 5e-4


class Block(nn.Module):
    """Two convolutions beside a shortcut (He et al. 2016)."""

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, out, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(out), nn.BatchNorm2d(out)])
        self.shortcut = nn.Conv2d(width, out, 1, stride, bias=False) if width != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, out, H / stride, W / stride) of features (B, width, H, W)."""
        inner = self.norms[1](self.second(F.relu(self.norms[0](self.first(x)))))
        return F.relu(inner + self.shortcut(x))


class Judge(nn.Module):
    """Classifier of images uint8 (B, 3, 32, 32)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        sizes = [(32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1)]
        self.blocks = nn.Sequential(*(Block(*size) for size in sizes))
        self.head = nn.Linear(128, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Last features (B, 128) and logits."""
        x = (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        features = self.blocks(self.stem(x)).mean(dim=(2, 3)).float()
        return features, self.head(features)


def pixels_of(shards: Path, split: str) -> tuple[Tensor, Tensor]:
    """All images uint8 (N, 3, H, W) of a split, and their labels."""
    images = ImageShards(shards, split)
    pixels = np.stack([np.asarray(images.image(index)) for index in range(len(images))])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(np.asarray(images.labels))


def crops(images: Tensor) -> Tensor:
    """The images shifted by up to 4 px, half of them mirrored."""
    padded = F.pad(images.float(), (4, 4, 4, 4), mode="reflect").to(torch.uint8)
    shifts, mirrored = torch.randint(0, 9, (len(images), 2)), torch.rand(len(images)) < 0.5
    shifted = torch.stack([one[:, y : y + 32, x : x + 32] for one, (y, x) in zip(padded, shifts.tolist(), strict=True)])
    return torch.where(mirrored[:, None, None, None], shifted.flip(3), shifted)


def train(shards: Path, output: Path) -> None:
    """Train the judge by SGD with one cycle of its rate; print its accuracy on the held-out images after each pass."""
    torch.manual_seed(0)
    images, labels = pixels_of(shards, "train")
    held, held_labels = pixels_of(shards, "val")
    judge = Judge(int(labels.max()) + 1).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(judge.parameters(), RATE, momentum=0.9, weight_decay=DECAY, nesterov=True)
    steps = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=EPOCHS * steps, pct_start=0.25)
    for epoch in range(EPOCHS):
        judge.train()
        for rows in torch.randperm(len(images))[: steps * BATCH].view(steps, BATCH):
            with torch.autocast("cpu", torch.bfloat16):
                logits = judge(crops(images[rows]))[1]
            loss = F.cross_entropy(logits.float(), labels[rows], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        _, logits = judged(judge, held)
        print(epoch + 1, f"{accuracy(logits, held_labels):.4f}", flush=True)
    save_file({name: tensor.contiguous() for name, tensor in judge.state_dict().items()}, output)


@torch.no_grad()
def judged(judge: Judge, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features and logits of images, in fp32."""
    judge.eval()
    parts = [judge(rows) for rows in images.split(500)]
    return torch.cat([features for features, _ in parts]), torch.cat([logits for _, logits in parts])


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of images that are taken for their label."""
    return (logits.argmax(dim=1) == labels).float().mean().item()


@torch.no_grad()
def measure(weights: Path, row: Path, output: Path, draws: list[Path]) -> None:
    """Write what the judge says of a row's reconstructions and draws."""
    real, labels = pixels_of(row / "data" / "shards", "val")
    state = load_file(weights)
    judge = Judge(len(state["head.bias"]))
    judge.load_state_dict(state)
    tokenizer = load_tokenizer(row / "models" / "attached")
    copies = [decode(tokenizer, tokenizer.encode(rows).visual) for rows in real.split(250)]
    of_real, of_copies = (
        judged(judge, real),
        judged(judge, torch.from_numpy(np.concatenate(copies)).permute(0, 3, 1, 2)),
    )
    references = [statistics(features) for features, _ in (of_real, of_copies)]
    found: dict[str, Any] = {
        "real": {"images": len(real), "accuracy": accuracy(of_real[1], labels)},
        "reconstructions": {"distance": frechet_distance(*references), "accuracy": accuracy(of_copies[1], labels)},
    }
    known = Reference(references[1], of_copies[0], {"images": len(real)})
    for path in draws:
        with np.load(path) as file:
            images, wanted = torch.from_numpy(file["arr_0"]).permute(0, 3, 1, 2), torch.from_numpy(file["arr_1"])
        features, logits = judged(judge, images)
        own = statistics(features)
        distances = [frechet_distance(own, reference) for reference in references]
        deviations = frechet_deviations(features, references)
        found[path.stem] = {
            "images": len(images),
            "accuracy": accuracy(logits, wanted),
            "distance": {"value": distances[0], **interval(distances[0], deviations[0])},
            "gap": {"value": distances[1], **interval(distances[1], deviations[1])},
            "floor": floor(known, len(images)),
        }
    output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    command, *words = sys.argv[1:]
    paths = [Path(word) for word in words]
    if command == "train":
        train(*paths)
    else:
        weights, row, output, *draws = paths
        measure(weights, row, output, draws)

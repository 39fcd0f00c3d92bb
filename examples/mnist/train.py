"""Trains the plain DCGAN of my_model.py on idx files, and saves its two halves as people do.

python train.py train-images-idx3-ubyte.gz --epochs 5
"""

import argparse
import gzip
import time
from pathlib import Path

import torch
from my_model import LATENT, discriminator, generator
from torch import Tensor, nn


def read_images(file: Path) -> Tensor:
    """Images [N, 1, 28, 28] in [-1, 1] of an idx file; smaller ones are enlarged."""
    data = (gzip.open if file.suffix == ".gz" else open)(file, "rb").read()
    count, height, width = (int.from_bytes(data[at : at + 4], "big") for at in (4, 8, 12))
    pixels = torch.frombuffer(bytearray(data[16:]), dtype=torch.uint8).view(count, 1, height, width)
    images = nn.functional.interpolate(pixels.float(), (28, 28), mode="bilinear") if height != 28 else pixels.float()
    return images / 127.5 - 1


def main() -> None:
    """Reads, trains, saves."""
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("images", type=Path)
    ask.add_argument("--epochs", type=int, default=5)
    ask.add_argument("--width", type=int, default=32)
    ask.add_argument("--seed", type=int, default=0)
    ask.add_argument("--threads", type=int, default=2)
    ask.add_argument("--out", type=Path, default=Path())
    asked = ask.parse_args()

    torch.manual_seed(asked.seed)
    torch.set_num_threads(asked.threads)
    images = read_images(asked.images)
    painter, teller = generator(asked.width), discriminator(asked.width)
    paint = torch.optim.Adam(painter.parameters(), lr=2e-4, betas=(0.5, 0.999))
    tell = torch.optim.Adam(teller.parameters(), lr=2e-4, betas=(0.5, 0.999))
    loss, began = nn.BCELoss(), time.monotonic()
    for epoch in range(asked.epochs):
        for chosen in torch.randperm(len(images)).split(64):
            real, latents = images[chosen], torch.randn(len(chosen), LATENT, 1, 1)
            yes, no = torch.full((len(chosen), 1), 0.9), torch.zeros(len(chosen), 1)
            fake = painter(latents)
            tell.zero_grad()
            (loss(teller(real), yes) + loss(teller(fake.detach()), no)).backward()
            tell.step()
            paint.zero_grad()
            fooled = loss(teller(fake), torch.ones(len(chosen), 1))
            fooled.backward()
            paint.step()
        print(f"epoch {epoch + 1} of {asked.epochs}: generator's loss {fooled.item():.2f}, "
              f"{time.monotonic() - began:.0f} s", flush=True)
    torch.save(painter.state_dict(), asked.out / "generator.pt")
    torch.save(teller.state_dict(), asked.out / "discriminator.pt")


if __name__ == "__main__":
    main()

"""Trains the two GANs of networks.py on the built-in digits, by their own means; takes minutes on one core.

    python tests/guests/train.py

Hinge-free and plain: the logistic game with R1 (the built-in's losses), because 1,257 images are few. Writes
painter.safetensors and dense.safetensors beside this file.
"""

from pathlib import Path

import torch
from networks import DenseGan, critic, painter
from safetensors.torch import save_file
from torch import Tensor, nn

from expunge.assets import digits
from expunge.models.adversarial import Average, discriminator_loss, generator_loss, r1_penalty

HERE = Path(__file__).parent
STEPS, BATCH, SEED = 6_000, 64, 0


def play(generator: nn.Module, judge: nn.Module, logit, draw, images: Tensor, steps: int) -> nn.Module:
    """Trains both; leaves the generator's averaged weights in it."""
    random = torch.Generator().manual_seed(SEED)
    paint = torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.0, 0.99))
    tell = torch.optim.Adam(judge.parameters(), lr=1e-3, betas=(0.0, 0.99))
    average = Average(generator, 0.998)

    class Logits(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return logit(judge(x)).squeeze(1)

    verdict = Logits()
    for step in range(steps):
        rate = 1e-3 * min(1.0, 2 * (1 - step / steps))
        paint.param_groups[0]["lr"] = tell.param_groups[0]["lr"] = rate
        real = images[torch.randint(len(images), (BATCH,), generator=random)]
        fake = generator(draw(BATCH, random))
        loss = discriminator_loss(verdict(real), verdict(fake.detach()))
        if step % 8 == 0:
            loss = loss + 8 * 0.5 * r1_penalty(verdict, real)
        tell.zero_grad()
        loss.backward()
        tell.step()
        paint.zero_grad()
        generator_loss(verdict(fake)).backward()
        paint.step()
        average.update(generator, step)
        if step % 1000 == 0:
            print(step, f"{loss.item():.2f}", flush=True)
    average.put_into(generator)
    with torch.no_grad():  # batch norm's running statistics, for the averaged weights
        for _ in range(200):
            generator(draw(256, random))
    return generator


def main() -> None:
    """Both, one after the other."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    images = torch.from_numpy(digits("train")[0])
    made = play(painter(), critic(), lambda out: out, lambda n, r: torch.randn(n, 40, 1, 1, generator=r), images, STEPS)
    save_file(made.state_dict(), HERE / "painter.safetensors")
    dense = DenseGan()
    play(dense.netG, dense.netD, lambda p: p.clamp(1e-6, 1 - 1e-6).logit(),
         lambda n, r: 2 * torch.rand(n, 24, generator=r) - 1, (images + 1) / 2, 2 * STEPS)
    save_file(dense.state_dict(), HERE / "dense.safetensors")


if __name__ == "__main__":
    main()

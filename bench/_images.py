"""Images to train auto-encoders on, none of a benchmark that they serve: Omniglot, photographs, dead leaves."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, interpolate, max_pool2d

CACHE = Path("results/images")
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "motorcycle_left", "hubble_deep_field", "ihc", "retina")
TEXTURES = ("brick", "grass", "gravel", "camera", "coins", "moon")


def omniglot(root: Path, *, background: bool, size: int = 28) -> tuple[Tensor, Tensor]:
    """Omniglot as white on black, reduced by area: images ``(N, 1, size, size)`` in [0, 1], characters ``(N,)``."""
    cache = CACHE / f"omniglot{size}-{'background' if background else 'evaluation'}.pt"
    if not cache.exists():
        from torchvision.datasets import Omniglot

        class Unpacked(Omniglot):  # type: ignore[misc]
            def _check_integrity(self) -> bool:
                return True

        data = Unpacked(str(root), background=background, download=False)
        images, labels = [], []
        for image, label in data:
            x = 1 - torch.from_numpy(np.asarray(image.convert("L"), dtype=np.float32) / 255)[None, None]
            images.append(interpolate(x, size=(size, size), mode="area")[0])
            labels.append(label)
        cache.parent.mkdir(parents=True, exist_ok=True)
        torch.save((torch.stack(images), torch.tensor(labels)), cache)
    images_, labels_ = torch.load(cache)
    return images_, labels_


def varied(x: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the strokes ``(N, 1, 28, 28)`` as they are, half turned, thickened, or grown into grey areas."""
    n = len(x)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(n, *shape, generator=generator) * (high - low) + low

    angle, scale = uniform(-math.pi / 4, math.pi / 4), uniform(-0.3, 0.3, 2).exp()
    shear, shift = uniform(-0.25, 0.25), uniform(-0.2, 0.2, 2)
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([cos, -sin, sin, cos], -1).view(n, 2, 2)
    bend = torch.stack([torch.ones(n), shear, torch.zeros(n), torch.ones(n)], -1).view(n, 2, 2)
    theta = torch.cat([turn @ bend * scale.unsqueeze(-1), shift.unsqueeze(-1)], -1)
    moved = grid_sample(x, affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)
    which = uniform(0, 1).view(n, 1, 1, 1)
    thick2 = max_pool2d(moved, 2, 1)
    thick2 = torch.nn.functional.pad(thick2, (0, 1, 0, 1))
    thick3 = avg_pool2d(max_pool2d(moved, 3, 1, 1), 3, 1, 1)
    # Strokes grown until they meet, under a smooth field of grey: areas, as strokes alone have none.
    field = interpolate(uniform(0.15, 1.0, 1, 3, 3), size=(28, 28), mode="bilinear", align_corners=True)
    area = avg_pool2d(max_pool2d(moved, 7, 1, 3), 3, 1, 1) * field
    out = torch.where(which < 0.15, moved, torch.where(which < 0.4, thick2, torch.where(which < 0.7, thick3, area)))
    return torch.where(uniform(0, 1).view(n, 1, 1, 1) < 0.5, x, out).clamp(0, 1)


def natural(count: int, generator: torch.Generator) -> Tensor:
    """Colour images ``(count, 3, 32, 32)``: crops of scikit-image's and scikit-learn's photographs, and dead leaves."""
    leaves = count // 3
    return torch.cat([_crops(count - leaves, generator), _dead_leaves(leaves, generator)])


def _crops(count: int, generator: torch.Generator) -> Tensor:
    import skimage
    from skimage.io import imread
    from sklearn.datasets import load_sample_images

    folder = Path(skimage.__file__).parent / "data"
    pictures = [np.asarray(image) for image in load_sample_images().images]
    for name in (*PHOTOS, *TEXTURES):
        picture = imread(next(folder.glob(f"{name}.*")))
        pictures.append(picture[..., :3] if picture.ndim == 3 else np.repeat(picture[..., None], 3, -1))
    tensors = [torch.from_numpy(p.copy()).permute(2, 0, 1).float() / 255 for p in pictures]
    grey = [i >= 2 + len(PHOTOS) for i in range(len(tensors))]
    area = torch.tensor(
        [float(p.shape[1] * p.shape[2]) * (0.2 if g else 1) for p, g in zip(tensors, grey, strict=True)]
    )
    chosen = torch.multinomial(area.sqrt(), count, replacement=True, generator=generator)
    out = torch.empty(count, 3, 32, 32)
    numbers = torch.rand(count, 12, generator=generator).tolist()
    for i, (which, u) in enumerate(zip(chosen.tolist(), numbers, strict=True)):
        picture = tensors[which]
        side = int(32 * (min(picture.shape[1:]) / 32) ** u[0])
        top, left = (int(v * (size - side + 1)) for v, size in zip(u[1:3], picture.shape[1:], strict=True))
        crop = picture[None, :, top : top + side, left : left + side]
        crop = interpolate(crop, size=(32, 32), mode="area")[0]
        if u[3] < 0.5:
            crop = crop.flip(-1)
        tint = torch.tensor(u[4:7]).view(3, 1, 1) * (1.2 if grey[which] else 0.4) + (0.4 if grey[which] else 0.8)
        out[i] = (crop * tint * (0.7 + 0.6 * u[7]) + 0.3 * (u[8] - 0.5)).clamp(0, 1)
    return out


def _dead_leaves(count: int, generator: torch.Generator, shapes: int = 24) -> Tensor:
    """Discs and bars of random colour that hide each other, sizes by a power law: the statistics of natural images."""
    axis = torch.linspace(-1, 1, 64)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    out = []
    for start in range(0, count, 1000):
        n = min(1000, count - start)
        image = torch.rand(n, 3, 1, 1, generator=generator).expand(n, 3, 64, 64).clone()
        for _ in range(shapes):
            u = torch.rand(n, 9, generator=generator).view(n, 9, 1, 1)
            radius = 0.08 * (1.2 / 0.08) ** (u[:, 0] ** 1.5)
            dx, dy = x - (2.4 * u[:, 1] - 1.2), y - (2.4 * u[:, 2] - 1.2)
            cos, sin = (2 * math.pi * u[:, 3]).cos(), (2 * math.pi * u[:, 3]).sin()
            along, across = (dx * cos + dy * sin) / (0.3 + u[:, 4]), (dy * cos - dx * sin)
            disc = along.square() + across.square() < radius.square()
            bar = (along.abs() < radius) & (across.abs() < radius)
            mask = torch.where(u[:, 5] < 0.5, disc, bar).unsqueeze(1)
            colour = u[:, 6:9].squeeze(-1).squeeze(-1).view(n, 3, 1, 1)
            shade = 1 + 0.5 * (along.clamp(-1, 1) * (u[:, 4] - 0.5)).unsqueeze(1)
            image = torch.where(mask, colour * shade, image)
        out.append(avg_pool2d(image, 2).clamp(0, 1))
    return torch.cat(out)

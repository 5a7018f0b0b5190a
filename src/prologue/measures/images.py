"""How much an image differs from its original: PSNR and SSIM."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from prologue.core.params import SSIM_WINDOW
from prologue.core.runtime import in_float64

SIGMA = 1.5  # of SSIM's window, px


def image_psnr(images: Tensor, originals: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each uint8 image (B, 3, H, W) in dB; identical images give 100 dB at most."""
    mse = (images.float() - originals.float()).square().flatten(1).mean(1)
    return 20 * math.log10(255) - 10 * mse.clamp_min(255**2 / 1e10).log10()


def image_ssim(images: Tensor, originals: Tensor) -> Tensor:
    """Structural similarity [Wang et al. 2004] of each uint8 image (B, 3, H, W): (B,), float64.

    Gaussian window of 11 px and sigma 1.5, where it lies fully inside, population variances, mean over RGB.
    """
    x, y = in_float64(images), in_float64(originals)
    offsets = torch.arange(SSIM_WINDOW, device=x.device, dtype=torch.float64) - SSIM_WINDOW // 2
    window = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    window = window / window.sum()

    def local_mean(values: Tensor) -> Tensor:
        rows = F.conv2d(values.flatten(0, 1).unsqueeze(1), window.view(1, 1, -1, 1))
        return F.conv2d(rows, window.view(1, 1, 1, -1))  # (B * 3, 1, h, w)

    mean_x, mean_y = local_mean(x), local_mean(y)
    variance_x, variance_y = local_mean(x * x) - mean_x**2, local_mean(y * y) - mean_y**2
    covariance = local_mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (luminance * structure).reshape(len(images), -1).mean(dim=1)

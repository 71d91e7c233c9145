"""A real image through the real pipeline, for `wash-hpc doctor`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import torch
import torchvision

from wash_hpc.config import DataConfig


def decode_one_image() -> str:
    """Write a grey JPEG file, decode it with DALI on the CPU, and on a GPU where there is one.

    Returns:
        What works, in words.

    Raises:
        MissingDependencyError: DALI is not installed.
        RuntimeError: the image that comes out is not the one that went in.
    """
    from wash_hpc.data.dali import Inputs, build_pipeline, run_pipeline, version

    devices = [torch.device("cpu")] + [torch.device("cuda")] * torch.cuda.is_available()
    data = DataConfig(image_size=32, resize=32, mean=[0.0] * 3, std=[1.0] * 3)
    with tempfile.TemporaryDirectory(prefix="wash_hpc-doctor-") as folder:
        file = Path(folder) / "grey.jpg"
        torchvision.io.write_jpeg(torch.full((3, 48, 64), 128, dtype=torch.uint8), str(file))
        for device in devices:
            feed = iter([Inputs([np.frombuffer(os.fsencode(file), dtype=np.uint8)], np.array([7]), None)])
            images, labels, _ = run_pipeline(build_pipeline(feed, True, 1, data, device, augment=False), device)
            if labels.tolist() != [7] or not torch.allclose(images.cpu(), torch.tensor(128 / 255), atol=0.02):
                raise RuntimeError(f"a grey JPEG file is not grey when decoded on {device}")
    return f"DALI {version()} decodes and resizes a JPEG file on {' and '.join(device.type for device in devices)}"

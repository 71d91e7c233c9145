"""What can be said of device buffers without a GPU."""

from __future__ import annotations

import pytest

from wash_hpc.parallel.device import name_slow_allocator


@pytest.mark.parametrize("variable", ["PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"])
@pytest.mark.parametrize("settings", ["expandable_segments:True", "backend:cudaMallocAsync,max_split_size_mb:64"])
def test_allocator_settings_that_make_device_buffers_slow_are_refused_by_name(variable, settings):
    assert name_slow_allocator({variable: settings}) == f"{variable}={settings}"


def test_other_allocator_settings_are_left_alone():
    settings = {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64,expandable_segments:False"}
    assert name_slow_allocator(settings) == ""

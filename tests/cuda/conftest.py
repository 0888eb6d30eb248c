"""Everything here needs a CUDA device and is skipped without one."""

import pytest
import torch

from tests.inference.conftest import image_folder, model_folder  # noqa: F401
from tests.trainer.conftest import dataset_json, folders, make_trainer, plans, preprocessed_template  # noqa: F401


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if "tests/cuda/" in item.path.as_posix():
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture
def little_memory():
    """Set how many bytes of the GPU this process may take; all of it again afterwards."""
    total = torch.cuda.get_device_properties(0).total_memory

    def limit(n_bytes):
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved() + n_bytes) / total))

    yield limit
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()

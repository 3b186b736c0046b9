import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_weights_every_time():
    torch.manual_seed(0)

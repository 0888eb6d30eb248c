import pytest
import torch

from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from tests.inference.tiny_model import save_model, smooth_ct, tiny_dataset_json, tiny_network, tiny_plans, write_image


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """Two folds with a class head."""
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, tiny_plans(), tiny_dataset_json(), [tiny_network(seed=0), tiny_network(seed=1)])
    return folder


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for i in range(3):
        write_image(folder / f"case_{i}_0000.nii.gz", smooth_ct(seed=i))
    return folder


@pytest.fixture(scope="module")
def predictor(model_folder):
    """The first fold in plain torch, without mirrored views."""
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, engine="torch", tta=1)
    predictor.initialize_from_trained_model_folder(model_folder, (0,))
    return predictor


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

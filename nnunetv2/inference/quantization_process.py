"""What quantization.py has done in a process of its own: `python -m nnunetv2.inference.quantization_process FOLDER`.

Reads fp32.xml, inputs.npz and ignored.json of FOLDER and writes int8.xml there.
"""

import sys
from pathlib import Path

import nncf
import numpy as np
import openvino
from nncf.quantization.range_estimator import RangeEstimatorParametersSet

from nnunetv2.utilities.files import load_json


def main(folder: Path) -> None:
    inputs = list(np.load(folder / "inputs.npz").values())
    quantised = nncf.quantize(
        openvino.Core().read_model(folder / "fp32.xml"), nncf.Dataset(inputs), subset_size=len(inputs), preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(**load_json(folder / "ignored.json"), validate=False),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            disable_bias_correction=True,  # the norm behind each convolution removes a bias anyway
            activations_range_estimator_params=RangeEstimatorParametersSet.HISTOGRAM))
    openvino.save_model(quantised, folder / "int8.xml", compress_to_fp16=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

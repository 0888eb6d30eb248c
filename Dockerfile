# The main job in a container, on SYNTHETIC data unless a data folder is given.
#
#   docker build -t pancreas .                               # CPU
#   docker build -t pancreas --build-arg VARIANT=cuda .      # NVIDIA GPU
#   docker run --rm -v "$PWD/results:/app/results" pancreas
#   docker run --rm --gpus all -v "$PWD/results:/app/results" -v "$PWD/data:/app/data:ro" pancreas --data data --name MYTEAM
ARG VARIANT=cpu

FROM python:3.12-slim-bookworm AS base
ENV PIP_NO_CACHE_DIR=1 PIP_CONSTRAINT=/app/constraints.txt PYTHONUNBUFFERED=1 MPLBACKEND=Agg
WORKDIR /app
# g++ compiles the CPU's convolutions at their first use. Debian keeps no old versions, so none is pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
COPY constraints.txt ./

FROM base AS torch-cpu
RUN pip install --no-cache-dir -c constraints.txt torch --index-url https://download.pytorch.org/whl/cpu

FROM base AS torch-cuda
RUN pip install --no-cache-dir -c constraints.txt torch

# hadolint ignore=DL3006
FROM torch-${VARIANT}
WORKDIR /app
COPY setup.py pyproject.toml README.md LICENSE NOTICE ./
COPY nnunetv2 nnunetv2
COPY dynamic_network_architectures dynamic_network_architectures
COPY data_prep data_prep
COPY evaluation evaluation
COPY report report
COPY experiments experiments
COPY results/speed.json results/ablation.json results/conformance.json results/
RUN bash experiments/setup_env.sh --no-venv
ENTRYPOINT ["bash", "experiments/run_fold0.sh", "--no-venv"]

#!/usr/bin/env bash
# Compare this repository with upstream nnU-Net 2.8.1, both run on this machine, and print a table.
#
#   bash experiments/run_conformance.sh [--reduced] [--only ROOM ...] [--real-cts DIR] [--out FILE]
#   bash experiments/run_conformance.sh --environment      build the reference environment and end
#
# Builds the reference environment in .venv-upstream once (a few minutes, 1.9 GB, CPU torch) and writes results/conformance.json.
# NNUNET_UPSTREAM_PYTHON=/path/to/python uses an environment that holds upstream already.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=experiments/show_help.sh
source experiments/show_help.sh "tests.conformance.run" "$@"

python="${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}"
reference=.venv-upstream

# torch comes first, and upstream without its dependencies: dynamic-network-architectures asks for timm,
# timm for torchvision, and that would replace torch by a CUDA build three times as large. Only Primus needs timm.
build_reference() {
    "$python" -m venv "$reference"
    local pip=("$reference/bin/python" -m pip install -q --disable-pip-version-check)
    "${pip[@]}" torch==2.13.0
    "${pip[@]}" --no-deps nnunetv2==2.8.1 dynamic-network-architectures==0.4.4 batchgeneratorsv2==0.3.6 \
        batchgenerators==0.25.1 acvl-utils==0.2.6
    "${pip[@]}" -c constraints.txt numpy scipy scikit-image scikit-learn pandas matplotlib SimpleITK tqdm blosc2 \
        connected-components-3d einops==0.8.2 nibabel==5.4.2 tifffile==2026.3.3 \
        imagecodecs==2026.3.6 graphviz==0.21 requests seaborn==0.13.2 yacs==0.1.8 future unittest2
    "$reference/bin/python" -I -c "import nnunetv2.inference.predict_from_raw_data" > /dev/null
    touch "$reference/complete"
}

if [ -z "${NNUNET_UPSTREAM_PYTHON:-}" ]; then
    [ -e "$reference/complete" ] || { echo "Building the reference environment in $reference ..."; build_reference; }
    export NNUNET_UPSTREAM_PYTHON="$PWD/$reference/bin/python"
fi
[[ "${1:-}" == --environment ]] || exec "$python" -m tests.conformance.run "$@"

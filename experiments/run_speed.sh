#!/usr/bin/env bash
# Inference time, memory and what each step costs in accuracy: upstream nnU-Net 2.8.1 and the modes here, whole processes.
#
#   bash experiments/run_speed.sh                                             validation cases of results/quiz_size (train_quiz_size.sh)
#   bash experiments/run_speed.sh --device cuda --run results/fold0           of the main job, on a GPU
#   bash experiments/run_speed.sh --model DIR --images DIR --labels DIR       any model folder and images
#   bash experiments/run_speed.sh --rows exact fast --cases 2 --rounds 1      a part, to try it
#
# Writes results/speed.{json,md,png}. Each finished run is kept in the .json, so a killed measurement goes on when it is given
# again, on the same machine with the same code, model and images; --fresh starts over. Upstream with mirroring costs minutes per
# case on a CPU: it gets 2 rounds of 3 cases, the rest 3 rounds of 4. Leave the machine alone meanwhile. Other options:
# python -m experiments.run_speed --help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=experiments/show_help.sh
source experiments/show_help.sh "experiments.run_speed" "$@"

# shellcheck source=experiments/setup_env.sh
source experiments/setup_env.sh
if [[ -z "${NNUNET_UPSTREAM_PYTHON:-}" ]]; then
    [[ -e .venv-upstream/complete ]] || bash experiments/run_conformance.sh --reduced --only commands --out "$(mktemp)"
    export NNUNET_UPSTREAM_PYTHON="$PWD/.venv-upstream/bin/python"
fi
exec python -m experiments.run_speed --upstream "$NNUNET_UPSTREAM_PYTHON" "$@"

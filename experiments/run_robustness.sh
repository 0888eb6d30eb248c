#!/usr/bin/env bash
# How much masks of REAL CTs depend on what should not matter: inference mode, axes of the file, voxel size, field of view, intensities.
#
#   bash experiments/run_robustness.sh                        model of the main job (results/fold0), CTs of ../shared/realct
#   bash experiments/run_robustness.sh --model DIR            another trained model folder
#   bash experiments/run_robustness.sh --modes exact fast --scans ts_sm_0000      a part, to try it
#
# The CTs have no truth that a model could be judged by: masks are compared with themselves. Without the CTs a message says so and the
# status is 0. Writes results/robustness.{json,md,png}; masks stay in results/robustness/work, and a killed run goes on there.
# All options: python -m experiments.robustness --help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=experiments/show_help.sh
source experiments/show_help.sh "experiments.robustness" "$@"

# shellcheck source=experiments/setup_env.sh
source experiments/setup_env.sh
exec python -m experiments.robustness "$@"

#!/usr/bin/env bash
# Which training segments as well as nnU-Net, and after how long: curves over wall time and over steps.
#
#   bash experiments/run_time_to_quality.sh                                  three sets, two seeds, 2 CPU cores, about three hours
#   bash experiments/run_time_to_quality.sh --sets hippocampus --seeds 0     one of them
#   bash experiments/run_time_to_quality.sh --device cuda --epochs 50        on a GPU
#
# All options go to experiments/time_to_quality.py (--help there). Real data are read from ../shared and left out where they are missing.
# Written: results/time_to_quality.{json,md,png}. Builds upstream's environment first, unless NNUNET_UPSTREAM_PYTHON names one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=experiments/show_help.sh
source experiments/show_help.sh "experiments.time_to_quality" "$@"

# shellcheck source=experiments/setup_env.sh
source experiments/setup_env.sh
bash experiments/run_conformance.sh --environment
exec python -m experiments.time_to_quality "$@"

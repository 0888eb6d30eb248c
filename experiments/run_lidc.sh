#!/usr/bin/env bash
# What the class head sees in REAL CTs: 604 nodules of LIDC-IDRI, five tasks, folds by patient.
#
#   bash experiments/run_lidc.sh                                  ../shared/lidc, 2 CPU cores, 75 minutes beside other work
#   bash experiments/run_lidc.sh --lidc DIR --device cuda         elsewhere, on a GPU
#
# All options go to experiments/lidc.py (--help there). What is trained or described is kept in OUT/work. Written: results/lidc.{json,md,png}.
# Without the data it says so and ends.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=experiments/show_help.sh
source experiments/show_help.sh "experiments.lidc" "$@"

# shellcheck source=experiments/setup_env.sh
source experiments/setup_env.sh
exec python -m experiments.lidc "$@"

#!/usr/bin/env bash
# Kills, full disks, killed workers and other mishaps at every stage; afterwards each must come to the same result.
#
#   bash experiments/run_faults.sh                     about 220 kills and 300 other faults, 20 minutes on 2 cores; results/faults.{json,md}
#   bash experiments/run_faults.sh --kills 50
#   bash experiments/run_faults.sh --only "train | killed"
#
# A campaign that was interrupted goes on where it stopped. Full and read-only disks need root, the report latexmk; else they
# are left out, and the result says so. Exit status 1 when anything is not met well.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=experiments/show_help.sh
source experiments/show_help.sh "experiments.faults.campaign" "$@"
# shellcheck source=experiments/setup_env.sh
source experiments/setup_env.sh
exec python -m experiments.faults.campaign "$@"

#!/usr/bin/env bash
# Damaged inputs through every command and script: files, headers, JSON, CSV, zips, checkpoints, pickles, flags and names.
#
#   bash experiments/run_fuzz.sh                       700 runs, about a minute on 2 cores; results/fuzz.{json,md}
#   bash experiments/run_fuzz.sh --runs 0              all there are, hours
#   bash experiments/run_fuzz.sh --only "checkpoint" --show
#
# Exit status 1 when any input is not met well. Options: see python -m experiments.fuzz.campaign --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=experiments/show_help.sh
source experiments/show_help.sh "experiments.fuzz.campaign" "$@"
# shellcheck source=experiments/setup_env.sh
source experiments/setup_env.sh
exec python -m experiments.fuzz.campaign "$@"

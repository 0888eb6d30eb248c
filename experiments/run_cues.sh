#!/usr/bin/env bash
# Which cues does the class head find? SYNTHETIC CTs in two unlike worlds, thirteen cues drawn independently on the same images.
#
#   bash experiments/run_cues.sh                       both worlds, 2 CPU cores, about an hour and a half
#   bash experiments/run_cues.sh --worlds cells        one of them
#   bash experiments/run_cues.sh --device cuda         on a GPU
#
# All options go to experiments/cues.py (--help there). What is trained or described is kept in OUT/work. Written: results/cues.{json,md,png}.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=experiments/show_help.sh
source experiments/show_help.sh "experiments.cues" "$@"

# shellcheck source=experiments/setup_env.sh
source experiments/setup_env.sh
exec python -m experiments.cues "$@"

#!/usr/bin/env bash
# What the class head sees in REAL CTs: 604 nodules of LIDC-IDRI, five tasks, folds by patient.
#
#   bash experiments/run_lidc.sh                                  ../shared/lidc, 2 CPU cores, about an hour
#   bash experiments/run_lidc.sh --lidc DIR --device cuda         elsewhere, on a GPU
#
# All options go to experiments/lidc.py (--help there): --folds N --epochs N --iterations N --seed S --out PATH. What is trained or described is
# kept in OUT/work. Written: results/lidc.{json,md,png}. Without the data it says so and ends.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

OUT="results/lidc"; ALL=("$@")
while [[ $# -gt 0 ]]; do
    case "$1" in
        --out) OUT="$2"; shift 2 ;;
        *) shift ;;
    esac
done
# shellcheck source=experiments/setup_env.sh
source experiments/setup_env.sh
mkdir -p "$OUT/work"
WORK="$(cd "$OUT/work" && pwd)"
export nnUNet_raw="$WORK/nnUNet_raw" nnUNet_preprocessed="$WORK/nnUNet_preprocessed" nnUNet_results="$WORK/nnUNet_results"
exec python experiments/lidc.py ${ALL[@]+"${ALL[@]}"}

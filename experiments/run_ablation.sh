#!/usr/bin/env bash
# Which part of the classifier earns its keep: trains the variants of experiments/ablation.py over the same folds and prints a table.
#
#   bash experiments/run_ablation.sh                                        synthetic data, 3 folds, 2 CPU cores, about 90 minutes
#   bash experiments/run_ablation.sh --data data --folds 5 --epochs 100     the quiz's training cases on a GPU
#   bash experiments/run_ablation.sh --variants naive chosen chosen_refit   some of the rows
#
# Options: --data DIR --out DIR --folds N --epochs N --iterations N --val_iterations N --device cuda|cpu|mps --seed S
# --jobs N (trainings at a time) --variants NAME... --train N (synthetic training cases) --new_cases N --from data|convert|plan|preprocess --no-venv.
# Resumable by variant and fold.
# Written: OUT.json and OUT.md (results/ablation.{json,md}). The folds lie inside the training cases. No other case is read,
# but for 99 new ones (--new_cases) that are made to judge the refit's calibration on when the data are synthetic.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

DATA=""; OUT="results/ablation"; FOLDS=3; EPOCHS=""; ITERATIONS=""; VAL_ITERATIONS=""; DEVICE=""; SEED=0; FROM=""; VENV=""; JOBS=""
PHANTOM=(--train 189); VARIANTS=(); NEW_CASES=()  # two thirds are as many as the main job trains on
usage() { sed -n '2,12p' "${BASH_SOURCE[0]}" | sed 's/^# \{0,1\}//'; }
need() { [[ $# -ge 2 ]] || { echo "error: $1 needs a value" >&2; exit 2; }; }
while [[ $# -gt 0 ]]; do
    case "$1" in
        --data) need "$@"; DATA="$2"; shift 2 ;;
        --out) need "$@"; OUT="$2"; shift 2 ;;
        --folds) need "$@"; FOLDS="$2"; shift 2 ;;
        --epochs) need "$@"; EPOCHS="$2"; shift 2 ;;
        --iterations) need "$@"; ITERATIONS="$2"; shift 2 ;;
        --val_iterations) need "$@"; VAL_ITERATIONS="$2"; shift 2 ;;
        --device) need "$@"; DEVICE="$2"; shift 2 ;;
        --seed) need "$@"; SEED="$2"; shift 2 ;;
        --jobs) need "$@"; JOBS="$2"; shift 2 ;;
        --train) need "$@"; PHANTOM=(--train "$2"); shift 2 ;;
        --new_cases) need "$@"; NEW_CASES=(--new_cases "$2"); shift 2 ;;
        --variants) shift; while [[ $# -gt 0 && "$1" != -* ]]; do VARIANTS+=("$1"); shift; done ;;
        --from) need "$@"; FROM="$2"; shift 2 ;;
        --no-venv) VENV="--no-venv"; shift ;;
        -h|--help) usage; exit 0 ;;
        *) echo "error: unknown option $1" >&2; usage >&2; exit 2 ;;
    esac
done

# shellcheck source=experiments/prepare.sh
source experiments/prepare.sh
if [[ ${#SYNTHETIC[@]} -gt 0 ]]; then
    EPOCHS="${EPOCHS:-12}"; ITERATIONS="${ITERATIONS:-50}"; VAL_ITERATIONS="${VAL_ITERATIONS:-4}"; JOBS="${JOBS:-2}"
else
    EPOCHS="${EPOCHS:-100}"; ITERATIONS="${ITERATIONS:-250}"; VAL_ITERATIONS="${VAL_ITERATIONS:-50}"
fi
[[ ${#VARIANTS[@]} -eq 0 ]] || VARIANTS=(--variants "${VARIANTS[@]}")
python experiments/ablation.py --out "$OUT" --dataset "$DATASET" --plans "$PLANS" --configuration "$CONFIG" --folds "$FOLDS" \
    --epochs "$EPOCHS" --iterations "$ITERATIONS" --val_iterations "$VAL_ITERATIONS" --device "$DEVICE" --seed "$SEED" \
    --jobs "${JOBS:-1}" ${SYNTHETIC[@]+"${SYNTHETIC[@]}"} ${VARIANTS[@]+"${VARIANTS[@]}"} ${NEW_CASES[@]+"${NEW_CASES[@]}"}

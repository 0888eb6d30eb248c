#!/usr/bin/env bash
# Choices that only measurement settles: class weights or balanced sampling, the class term's augmentation, averaged weights, and
# whether views and folds are averaged as logits or as probabilities.
#
#   bash experiments/run_training_choices.sh                                       synthetic data, 3 folds, 2 CPU cores, two hours or more
#   bash experiments/run_training_choices.sh --data data --folds 5 --epochs 100    the quiz's training cases on a GPU
#
# Options: --data DIR --out DIR --folds N --only_folds K... --epochs N --iterations N --views 8|4|2|1 --device cuda|cpu|mps --seed S
# --jobs N (trainings at a time) --train N (synthetic training cases) --new_cases N --from data|convert|plan|preprocess --no-venv.
# A rerun after a kill goes on where it stopped. Written: OUT.json and OUT.md (results/training_choices.{json,md}). The folds lie inside the
# training cases; no other case is read, but for 99 new synthetic ones (--new_cases) on which the folds are averaged.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

DATA=""; OUT="results/training_choices"; FOLDS=3; EPOCHS=""; ITERATIONS=""; VIEWS=""; DEVICE=""; SEED=0; FROM=""; VENV=""; JOBS=""; ONLY=(); NEW_CASES=()
PHANTOM=(--train 189)  # two thirds are as many as the main job trains on
usage() { sed -n '2,11p' "${BASH_SOURCE[0]}" | sed 's/^# \{0,1\}//'; }
need() { [[ $# -ge 2 ]] || { echo "error: $1 needs a value" >&2; exit 2; }; }
while [[ $# -gt 0 ]]; do
    case "$1" in
        --data) need "$@"; DATA="$2"; shift 2 ;;
        --out) need "$@"; OUT="$2"; shift 2 ;;
        --folds) need "$@"; FOLDS="$2"; shift 2 ;;
        --only_folds) shift; while [[ $# -gt 0 && "$1" != -* ]]; do ONLY+=("$1"); shift; done ;;
        --epochs) need "$@"; EPOCHS="$2"; shift 2 ;;
        --iterations) need "$@"; ITERATIONS="$2"; shift 2 ;;
        --views) need "$@"; VIEWS="$2"; shift 2 ;;
        --device) need "$@"; DEVICE="$2"; shift 2 ;;
        --seed) need "$@"; SEED="$2"; shift 2 ;;
        --jobs) need "$@"; JOBS="$2"; shift 2 ;;
        --train) need "$@"; PHANTOM=(--train "$2"); shift 2 ;;
        --new_cases) need "$@"; NEW_CASES=(--new_cases "$2"); shift 2 ;;
        --from) need "$@"; FROM="$2"; shift 2 ;;
        --no-venv) VENV="--no-venv"; shift ;;
        -h|--help) usage; exit 0 ;;
        *) echo "error: unknown option $1" >&2; usage >&2; exit 2 ;;
    esac
done

# shellcheck source=experiments/prepare.sh
source experiments/prepare.sh
if [[ ${#SYNTHETIC[@]} -gt 0 ]]; then
    EPOCHS="${EPOCHS:-12}"; ITERATIONS="${ITERATIONS:-25}"; VIEWS="${VIEWS:-2}"; JOBS="${JOBS:-2}"
else
    EPOCHS="${EPOCHS:-100}"; ITERATIONS="${ITERATIONS:-250}"; VIEWS="${VIEWS:-8}"
fi
[[ ${#ONLY[@]} -eq 0 ]] || ONLY=(--only_folds "${ONLY[@]}")
python experiments/training_choices.py --out "$OUT" --dataset "$DATASET" --plans "$PLANS" --configuration "$CONFIG" --folds "$FOLDS" \
    --epochs "$EPOCHS" --iterations "$ITERATIONS" --views "$VIEWS" --device "$DEVICE" --seed "$SEED" --jobs "${JOBS:-1}" ${SYNTHETIC[@]+"${SYNTHETIC[@]}"} ${ONLY[@]+"${ONLY[@]}"} \
    ${NEW_CASES[@]+"${NEW_CASES[@]}"}

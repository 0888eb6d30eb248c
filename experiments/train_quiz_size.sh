#!/usr/bin/env bash
# A trained model of the quiz's image size on SYNTHETIC CTs, for run_speed.sh: masks worth comparing, on a CPU in about two hours.
#
#   bash experiments/train_quiz_size.sh                     63 training cases into results/quiz_size
#   bash experiments/train_quiz_size.sh --device cuda       the same on a GPU
#
# Options: --out DIR --train N --device cuda|cpu|mps --iterations COARSE,MIDDLE,CROPS,FULL (in all; default 350,900,120,12)
# --from STAGE --no-venv. A rerun after a kill goes on where it stopped.
# One iteration at full size takes a CPU most of a minute. So the planned network is first trained on coarser grids, from there
# on parts of patches, and only last on whole ones (experiments/coarse_to_fine_plans.py).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

OUT="results/quiz_size"; TRAIN=63; DEVICE=""; ITERATIONS="350,900,120,12"; FROM=""; VENV=""
usage() { sed -n '2,10p' "${BASH_SOURCE[0]}" | sed 's/^# \{0,1\}//'; }
need() { [[ $# -ge 2 ]] || { echo "error: $1 needs a value" >&2; exit 2; }; }
while [[ $# -gt 0 ]]; do
    case "$1" in
        --out) need "$@"; OUT="$2"; shift 2 ;;
        --train) need "$@"; TRAIN="$2"; shift 2 ;;
        --device) need "$@"; DEVICE="$2"; shift 2 ;;
        --iterations) need "$@"; ITERATIONS="$2"; shift 2 ;;
        --from) need "$@"; FROM="$2"; shift 2 ;;
        --no-venv) VENV="--no-venv"; shift ;;
        -h|--help) usage; exit 0 ;;
        *) echo "error: unknown option $1" >&2; usage >&2; exit 2 ;;
    esac
done
[[ "$ITERATIONS" =~ ^[0-9]+(,[0-9]+){3}$ ]] || { echo "error: --iterations $ITERATIONS: four numbers, such as 350,900,120,12" >&2; exit 2; }
IFS=, read -r COARSE MIDDLE CROPS FULL <<< "$ITERATIONS"

# shellcheck source=experiments/setup_env.sh
source experiments/setup_env.sh $VENV
DATA="$OUT/work/synthetic_data"
python data_prep/make_phantom.py "$DATA" --preset quiz --seed 7 --train "$TRAIN" --validation 12 --test 4  # keeps what is there
# shellcheck source=experiments/prepare.sh
source experiments/prepare.sh

stage coarse_plans --outputs "$WORK/coarse_plans.done" -- \
    bash -c 'python experiments/coarse_to_fine_plans.py "$1" && touch "$2"' plans "$PREPROCESSED/$PLANS.json" "$WORK/coarse_plans.done"
for configuration in 3d_coarse 3d_middle; do
    stage "preprocess_$configuration" --outputs "$PREPROCESSED/nnUNetPlans_$configuration" -- \
        nnUNetv2_preprocess -d 777 -plans_name "$PLANS" -c "$configuration"
done
train() {  # train CONFIGURATION EPOCHS ITERATIONS_IN_ALL [CONFIGURATION TO START FROM]
    local name="${TRAINER}__${PLANS}__" from=""
    [[ -z "${4:-}" ]] || from="$RESULTS/$name$4/fold_0/checkpoint_final.pth"
    train_from "train_$1" "$RESULTS/$name$1/fold_0" "$from" \
        777 "$1" 0 -tr "$TRAINER" -p "$PLANS" -device "$DEVICE" --epochs "$2" --iterations $(( ($3 + $2 - 1) / $2 )) --val_iterations 1 --no_val
}
train 3d_coarse 10 "$COARSE"
train 3d_middle 10 "$MIDDLE" 3d_coarse
train 3d_crops 10 "$CROPS" 3d_middle
train 3d_fullres 2 "$FULL" 3d_crops
MODEL="$RESULTS/${TRAINER}__${PLANS}__$CONFIG"
stage refit --outputs "$MODEL/fold_0/class_head_refit.json" -- \
    nnUNetv2_refit_class_head -d 777 -c "$CONFIG" -f 0 -tr "$TRAINER" -p "$PLANS" -device "$DEVICE" -views 1
stage quantize --outputs "$MODEL/fold_0/quantization.json" -- nnUNetv2_quantize -d 777 -c "$CONFIG" -f 0 -tr "$TRAINER" -p "$PLANS"
python data_prep/split_view.py --raw "$RAW" --out "$WORK/validation"
echo "[quiz size] the model is in $MODEL; now: bash experiments/run_speed.sh --run $OUT"

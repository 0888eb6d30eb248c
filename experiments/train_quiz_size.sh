#!/usr/bin/env bash
# A trained model of the quiz's image size on SYNTHETIC CTs, for run_speed.sh: masks worth comparing, on a CPU in about two hours,
# on a GPU in minutes.
#
#   bash experiments/train_quiz_size.sh                     63 training cases into results/quiz_size
#   bash experiments/train_quiz_size.sh --device cuda       the same on a GPU
#
# Options: --out DIR --train N --validation N --device cuda|cpu|mps --iterations COARSE,MIDDLE,CROPS,FULL (in all; default
# 350,900,120,12, on a GPU 0,0,0,1000) --from STAGE --no-venv. A rerun after a kill goes on where it stopped.
# One iteration at full size takes a CPU most of a minute. So there the planned network is first trained on coarser grids, from
# there on parts of patches, and only last on whole ones (experiments/coarse_to_fine_plans.py); 0 iterations leave one out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

OUT="results/quiz_size"; TRAIN=63; VALIDATION=12; DEVICE=""; ITERATIONS=""; FROM=""; VENV=""
usage() { sed -n '2,11p' "${BASH_SOURCE[0]}" | sed 's/^# \{0,1\}//'; }
need() { [[ $# -ge 2 ]] || { echo "error: $1 needs a value" >&2; exit 2; }; }
while [[ $# -gt 0 ]]; do
    case "$1" in
        --out) need "$@"; OUT="$2"; shift 2 ;;
        --train) need "$@"; TRAIN="$2"; shift 2 ;;
        --validation) need "$@"; VALIDATION="$2"; shift 2 ;;
        --device) need "$@"; DEVICE="$2"; shift 2 ;;
        --iterations) need "$@"; ITERATIONS="$2"; shift 2 ;;
        --from) need "$@"; FROM="$2"; shift 2 ;;
        --no-venv) VENV="--no-venv"; shift ;;
        -h|--help) usage; exit 0 ;;
        *) echo "error: unknown option $1" >&2; usage >&2; exit 2 ;;
    esac
done
[[ -z "$ITERATIONS" || "$ITERATIONS" =~ ^[0-9]+(,[0-9]+){2},[1-9][0-9]*$ ]] ||
    { echo "error: --iterations $ITERATIONS: four numbers, the last not 0, such as 350,900,120,12" >&2; exit 2; }

# shellcheck source=experiments/setup_env.sh
source experiments/setup_env.sh $VENV
DATA="$OUT/work/synthetic_data"
python data_prep/make_phantom.py "$DATA" --preset quiz --seed 7 --train "$TRAIN" --validation "$VALIDATION" --test 4  # keeps what is there
# shellcheck source=experiments/prepare.sh
source experiments/prepare.sh

if [[ -z "$ITERATIONS" ]]; then
    [[ "$DEVICE" == cuda ]] && ITERATIONS="0,0,0,1000" || ITERATIONS="350,900,120,12"
fi
IFS=, read -r COARSE MIDDLE CROPS FULL <<< "$ITERATIONS"

stage coarse_plans --outputs "$WORK/coarse_plans.done" -- \
    bash -c 'python experiments/coarse_to_fine_plans.py "$1" && touch "$2"' plans "$PREPROCESSED/$PLANS.json" "$WORK/coarse_plans.done"
LAST=""  # checkpoint of the last training
train() {  # train CONFIGURATION EPOCHS ITERATIONS_IN_ALL, from the weights of the last one
    local fold="$RESULTS/${TRAINER}__${PLANS}__$1/fold_0" from="$LAST" epochs="$2"
    [[ "$3" -gt 0 ]] || return 0
    [[ "$epochs" -le "$3" ]] || epochs="$3"
    LAST="$fold/checkpoint_final.pth"
    [[ "$1" != 3d_coarse && "$1" != 3d_middle ]] || stage "preprocess_$1" --outputs "$PREPROCESSED/nnUNetPlans_$1" -- \
        nnUNetv2_preprocess -d 777 -plans_name "$PLANS" -c "$1"
    train_from "train_$1" "$fold" "$from" \
        777 "$1" 0 -tr "$TRAINER" -p "$PLANS" -device "$DEVICE" --epochs "$epochs" --iterations $(( ($3 + epochs - 1) / epochs )) --val_iterations 1 --no_val --no_refit
}
train 3d_coarse 10 "$COARSE"
train 3d_middle 10 "$MIDDLE"
train 3d_crops 10 "$CROPS"
[[ "$FULL" -lt 100 ]] && EPOCHS=2 || EPOCHS=10
train 3d_fullres "$EPOCHS" "$FULL"
MODEL="$RESULTS/${TRAINER}__${PLANS}__$CONFIG"
stage refit --outputs "$MODEL/fold_0/class_head_refit.json" -- \
    nnUNetv2_refit_class_head -d 777 -c "$CONFIG" -f 0 -tr "$TRAINER" -p "$PLANS" -device "$DEVICE" -views 1
[[ "$DEVICE" != cpu ]] || stage quantize --outputs "$MODEL/fold_0/quantization.json" -- nnUNetv2_quantize -d 777 -c "$CONFIG" -f 0 -tr "$TRAINER" -p "$PLANS"
python data_prep/split_view.py --raw "$RAW" --out "$WORK/validation"
echo "[quiz size] the model is in $MODEL; now: bash experiments/run_speed.sh --run $OUT"

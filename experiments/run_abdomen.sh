#!/usr/bin/env bash
# Full-size CTs: time, memory and agreement of upstream and of the modes on a SYNTHETIC abdomen of 512 x 512 x 200 voxels.
#
#   bash experiments/run_fold0.sh && bash experiments/run_accuracy.sh && bash experiments/run_abdomen.sh
#   bash experiments/run_abdomen.sh --iterations 800 --rows fast
#
# The main job's model has seen the pancreas and its surroundings alone, and in a whole abdomen takes much else for it. So it first learns
# on SYNTHETIC abdomens of its own voxel size (preset torso). Upstream runs without TTA; its time with TTA is derived from the seconds a
# window in results/accuracy.json.
# Options: --run DIR (a finished run_fold0.sh on synthetic data; default results/fold0) --out PATH --iterations N --device cuda|cpu
# --seconds_from JSON; all others go to experiments/run_speed.py (--help there). Written: results/abdomen.{json,md,png}. A rerun after a
# kill goes on where it stopped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

RUN="results/fold0"; OUT="results/abdomen"; ITERATIONS=480; DEVICE=cpu; SECONDS_FROM="results/accuracy.json"; REST=()
usage() { sed -n '2,12p' "${BASH_SOURCE[0]}" | sed 's/^# \{0,1\}//'; }
need() { [[ $# -ge 2 ]] || { echo "error: $1 needs a value" >&2; exit 2; }; }
while [[ $# -gt 0 ]]; do
    case "$1" in
        --run) need "$@"; RUN="$2"; shift 2 ;;
        --out) need "$@"; OUT="$2"; shift 2 ;;
        --iterations) need "$@"; ITERATIONS="$2"; shift 2 ;;
        --device) need "$@"; DEVICE="$2"; shift 2 ;;
        --seconds_from) need "$@"; SECONDS_FROM="$2"; shift 2 ;;
        -h|--help) usage; exit 0 ;;
        *) REST+=("$1"); shift ;;
    esac
done

# shellcheck source=experiments/setup_env.sh
source experiments/setup_env.sh
CONFIG=3d_fullres; PLANS=nnUNetResEncUNetMPlans; MODEL="nnUNetTrainer__${PLANS}__$CONFIG"; SOURCE=Dataset777_PancreasCT; TORSOS=Dataset778_Torso
[[ -e "$RUN/work/nnUNet_results/$SOURCE/$MODEL/fold_0/checkpoint_final.pth" ]] ||
    { echo "error: $RUN holds no finished model; run experiments/run_fold0.sh first" >&2; exit 2; }
RUN="$(cd "$RUN" && pwd)"; mkdir -p "$OUT/work"; WORK="$(cd "$OUT/work" && pwd)"
export nnUNet_raw="$WORK/nnUNet_raw" nnUNet_preprocessed="$WORK/nnUNet_preprocessed" nnUNet_results="$WORK/nnUNet_results"
FOLD="$nnUNet_results/$TORSOS/$MODEL/fold_0"
# shellcheck source=experiments/stages.sh
source experiments/stages.sh

stage data --outputs "$WORK/torsos" -- python data_prep/make_phantom.py "$WORK/torsos" --preset torso --seed 4720
stage convert --outputs "$nnUNet_raw/$TORSOS" -- python data_prep/convert_quiz.py --data "$WORK/torsos" --out "$nnUNet_raw" --dataset "$TORSOS"
# a plan of their own is made along with what preprocessing needs, and left aside: the network is the main job's
stage plan --outputs "$nnUNet_preprocessed/$TORSOS/dataset.json" -- \
    nnUNetv2_plan_and_preprocess -d 778 -pl nnUNetPlannerResEncM -overwrite_plans_name own_plans --no_pp
stage copy_plans --outputs "$nnUNet_preprocessed/$TORSOS/$PLANS.json" -- python -c '
import json, sys
plans = json.load(open(sys.argv[1])) | {"dataset_name": sys.argv[3]}
json.dump(plans, open(sys.argv[2], "w"), indent=4)' "$RUN/work/nnUNet_preprocessed/$SOURCE/$PLANS.json" "$nnUNet_preprocessed/$TORSOS/$PLANS.json" "$TORSOS"
stage preprocess --outputs "$nnUNet_preprocessed/$TORSOS/nnUNetPlans_$CONFIG" -- nnUNetv2_preprocess -d 778 -plans_name "$PLANS" -c "$CONFIG"
train_from train "$FOLD" "$RUN/work/nnUNet_results/$SOURCE/$MODEL/fold_0/checkpoint_final.pth" \
    778 "$CONFIG" 0 -p "$PLANS" -device "$DEVICE" --epochs 8 --iterations $(( (ITERATIONS + 7) / 8 )) --val_iterations 4 --no_val
[[ "$DEVICE" != cpu ]] || stage quantize --outputs "$FOLD/quantization.json" -- nnUNetv2_quantize -d 778 -c "$CONFIG" -f 0 -tr nnUNetTrainer -p "$PLANS"
python experiments/draw_cases.py "$OUT/work/abdomen" --preset abdomen --seed 4718 --n 1
exec bash experiments/run_speed.sh --model "$OUT/work/nnUNet_results/$TORSOS/$MODEL" --images "$OUT/work/abdomen/images" --labels "$OUT/work/abdomen/labels" \
    --truth "$OUT/work/abdomen/subtypes.csv" --synthetic --cases 1 --rounds 1 --device "$DEVICE" --tta_from "$SECONDS_FROM" --out "$OUT" \
    --rows fast 'upstream, no TTA' ${REST[@]+"${REST[@]}"}

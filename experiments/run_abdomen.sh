#!/usr/bin/env bash
# Full-size CTs: time, memory and agreement of upstream and of the modes on a SYNTHETIC abdomen of 512 x 512 x 200 voxels.
#
#   bash experiments/run_fold0.sh && bash experiments/run_accuracy.sh && bash experiments/run_abdomen.sh
#   bash experiments/run_abdomen.sh --iterations 800 --rows fast 'fast, ROI model'
#   bash experiments/train_quiz_size.sh --device cuda && bash experiments/run_abdomen.sh --run results/quiz_size --keep_model --device cuda
#
# The main job's model has seen the pancreas and its surroundings alone, and in a whole abdomen takes much else for it. So it is first trained
# on with SYNTHETIC abdomens, once on its own grid and once on one twice as coarse; the second model finds the boxes (nnUNetv2_predict
# -roi_model). With --keep_model it stays as it is, and only the coarse one is trained. On a CPU upstream runs without TTA; its time with TTA
# is derived from the seconds per window in results/accuracy.json.
# Options: --run DIR (a finished run_fold0.sh or train_quiz_size.sh on synthetic data; default results/fold0) --out PATH --keep_model
# --iterations N (each) --device cuda|cpu --seconds_from JSON; all others go to experiments/run_speed.py (--help there). Written:
# results/abdomen.{json,md,png}. A rerun after a kill goes on where it stopped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

RUN="results/fold0"; OUT="results/abdomen"; ITERATIONS=480; DEVICE=cpu; SECONDS_FROM="results/accuracy.json"; KEEP_MODEL=""; REST=()
usage() { sed -n '2,14p' "${BASH_SOURCE[0]}" | sed 's/^# \{0,1\}//'; }
need() { [[ $# -ge 2 ]] || { echo "error: $1 needs a value" >&2; exit 2; }; }
while [[ $# -gt 0 ]]; do
    case "$1" in
        --run) need "$@"; RUN="$2"; shift 2 ;;
        --out) need "$@"; OUT="$2"; shift 2 ;;
        --iterations) need "$@"; ITERATIONS="$2"; shift 2 ;;
        --device) need "$@"; DEVICE="$2"; shift 2 ;;
        --keep_model) KEEP_MODEL=1; shift ;;
        --seconds_from) need "$@"; SECONDS_FROM="$2"; shift 2 ;;
        -h|--help) usage; exit 0 ;;
        *) REST+=("$1"); shift ;;
    esac
done

# shellcheck source=experiments/setup_env.sh
source experiments/setup_env.sh
PLANS=nnUNetResEncUNetMPlans; TRAINED="nnUNetTrainer__$PLANS"; SOURCE=Dataset777_PancreasCT; TORSOS=Dataset778_Torso
START="$RUN/work/nnUNet_results/$SOURCE/${TRAINED}__3d_fullres/fold_0/checkpoint_final.pth"
[[ -e "$START" ]] || { echo "error: $RUN holds no finished model; run experiments/run_fold0.sh first" >&2; exit 2; }
mkdir -p "$OUT/work"; WORK="$(cd "$OUT/work" && pwd)"
export nnUNet_raw="$WORK/nnUNet_raw" nnUNet_preprocessed="$WORK/nnUNet_preprocessed" nnUNet_results="$WORK/nnUNet_results"
# shellcheck source=experiments/stages.sh
source experiments/stages.sh

stage data --outputs "$WORK/torsos" -- python data_prep/make_phantom.py "$WORK/torsos" --preset torso --seed 4720
stage convert --outputs "$nnUNet_raw/$TORSOS" -- python data_prep/convert_quiz.py --data "$WORK/torsos" --out "$nnUNet_raw" --dataset "$TORSOS"
# a plan of their own is made along with what preprocessing needs, and left aside: network and normalisation are the main job's
stage plan --outputs "$nnUNet_preprocessed/$TORSOS/dataset.json" -- \
    nnUNetv2_plan_and_preprocess -d 778 -pl nnUNetPlannerResEncM -overwrite_plans_name own_plans --no_pp
stage coarse_plans --outputs "$nnUNet_preprocessed/$TORSOS/$PLANS.json" -- python -c '
import json, sys
source, target, dataset, name = sys.argv[1:]
plans = json.load(open(source))
spacing = [2 * mm for mm in plans["configurations"]["3d_fullres"]["spacing"]]
plans["configurations"][name] = {"inherits_from": "3d_fullres", "data_identifier": f"nnUNetPlans_{name}", "spacing": spacing}
json.dump(plans | {"dataset_name": dataset}, open(target, "w"), indent=4)
' "$RUN/work/nnUNet_preprocessed/$SOURCE/$PLANS.json" "$nnUNet_preprocessed/$TORSOS/$PLANS.json" "$TORSOS" 3d_lowres
MODELS="$OUT/work/nnUNet_results/$TORSOS/$TRAINED"; MODEL="${MODELS}__3d_fullres"; CONFIGS=(3d_lowres 3d_fullres)
[[ -z "$KEEP_MODEL" ]] || { MODEL="$(dirname "$(dirname "$START")")"; CONFIGS=(3d_lowres); }
for CONFIG in "${CONFIGS[@]}"; do
    FOLD="$nnUNet_results/$TORSOS/${TRAINED}__$CONFIG/fold_0"
    stage "preprocess_$CONFIG" --outputs "$nnUNet_preprocessed/$TORSOS/nnUNetPlans_$CONFIG" -- nnUNetv2_preprocess -d 778 -plans_name "$PLANS" -c "$CONFIG"
    train_from "train_$CONFIG" "$FOLD" "$START" \
        778 "$CONFIG" 0 -p "$PLANS" -device "$DEVICE" --epochs 8 --iterations $(( (ITERATIONS + 7) / 8 )) --val_iterations 4 --no_val
    [[ "$DEVICE" != cpu ]] ||
        stage "quantize_$CONFIG" --outputs "$FOLD/quantization.json" -- nnUNetv2_quantize -d 778 -c "$CONFIG" -f 0 -tr nnUNetTrainer -p "$PLANS"
done
python experiments/draw_cases.py "$OUT/work/abdomen" --preset abdomen --seed 4718 --n 1
if [[ "$DEVICE" == cpu ]]; then  # there upstream with TTA would take hours
    ROWS=('fast, ROI model' fast 'upstream, no TTA'); REST=(--tta_from "$SECONDS_FROM" ${REST[@]+"${REST[@]}"})
else
    ROWS=('fast, ROI model' fast exact upstream 'upstream, no TTA')
fi
exec bash experiments/run_speed.sh --model "$MODEL" --roi_model "${MODELS}__3d_lowres" --images "$OUT/work/abdomen/images" \
    --labels "$OUT/work/abdomen/labels" --truth "$OUT/work/abdomen/subtypes.csv" --synthetic --cases 1 --rounds 1 --device "$DEVICE" \
    --reference_cases 1 --reference_rounds 1 --out "$OUT" --rows "${ROWS[@]}" ${REST[@]+"${REST[@]}"}

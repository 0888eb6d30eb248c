"""Commands that train."""

from collections.abc import Sequence

from nnunetv2.cli.common import add_device_flag, add_trained_folds_flags, device_from_name, fold, make_parser, model_folder
from nnunetv2.utilities.commands import real_number, run, whole_number


def train(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("train", "Train one fold. A fold that was interrupted goes on with --c.",
                    "nnUNetv2_train 777 3d_fullres 0 -p nnUNetResEncUNetMPlans --epochs 100")
    parser.add_argument("dataset_name_or_id", help="dataset id or name")
    parser.add_argument("configuration", help="2d, 3d_fullres, 3d_lowres, 3d_cascade_fullres or one of your own in the plans")
    parser.add_argument("fold", type=fold, help="index into splits_final.json, or 'all'")
    parser.add_argument("-tr", default="nnUNetTrainer", help="trainer: a class of nnunetv2, or (fork) package.module:Class")
    parser.add_argument("-p", default="nnUNetPlans", help="plans name")
    parser.add_argument("-pretrained_weights", default=None, help="checkpoint to start from; layers that do not fit are refused")
    parser.add_argument("--same_task", action="store_true", help="(fork) with -pretrained_weights: take its segmentation layers and class head too")
    parser.add_argument("-num_gpus", type=whole_number(1), default=1, help="GPUs to train on")
    parser.add_argument("--npz", action="store_true", help="keep the probabilities of the final validation, for ensembling")
    parser.add_argument("--c", action="store_true", help="continue from the latest checkpoint")
    parser.add_argument("--val", action="store_true", help="only run the final validation")
    parser.add_argument("--val_best", action="store_true", help="validate with checkpoint_best instead of checkpoint_final")
    parser.add_argument("--disable_checkpointing", action="store_true", help="write no checkpoints")
    add_device_flag(parser)
    parser.add_argument("--epochs", type=whole_number(1), default=None, help="(fork) number of epochs; default: the trainer's, 1000")
    parser.add_argument("--iterations", type=whole_number(1), default=None, help="(fork) iterations an epoch; default: 250")
    parser.add_argument("--val_iterations", type=whole_number(1), default=None, help="(fork) validation iterations an epoch; default: 50")
    parser.add_argument("--hours", type=real_number(0, above=True), default=None, help="(fork) end within so many hours: the speed is measured, and the schedule gets the "
                        "length that leaves time for refit and validation; with --c goes on in what is left")
    parser.add_argument("--patience", type=whole_number(1), default=None, help="(fork) end when the pseudo Dice has not improved for so many epochs")
    parser.add_argument("--no_val", action="store_true", help="(fork) leave out the final validation, for those who predict afterwards")
    parser.add_argument("--no_refit", action="store_true", help="(fork) leave the class head as gradient descent left it, uncalibrated")
    parser.add_argument("--batch_size", type=whole_number(1), default=None, help="(fork) patches a batch; default: the plans'")
    parser.add_argument("--seed", type=whole_number(0, 2**32 - 1), default=None, help="(fork) seed of weights, batches and augmentation; default: the trainer's, 0")
    args = parser.parse_args(argv)
    if args.same_task and args.pretrained_weights is None:
        parser.error("--same_task says how to use -pretrained_weights, which is missing")
    if args.val and args.no_val:
        parser.error("--val and --no_val contradict each other")
    if args.val_best and not args.val:
        print("note: --val_best chooses the checkpoint of the validation that follows training")
    device = device_from_name(args.device)
    from nnunetv2.training.run_training import run_training

    run(run_training, args.dataset_name_or_id, args.configuration, args.fold, args.tr, args.p,
        pretrained_weights=args.pretrained_weights, same_task=args.same_task, num_gpus=args.num_gpus, export_validation_probabilities=args.npz,
        continue_training=args.c, only_run_validation=args.val, disable_checkpointing=args.disable_checkpointing,
        val_with_best=args.val_best, device=device, epochs=args.epochs, iterations=args.iterations,
        val_iterations=args.val_iterations, seed=args.seed, batch_size=args.batch_size, final_validation=not args.no_val,
        hours=args.hours, patience=args.patience, refit=not args.no_refit)


def refit_class_head(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("refit_class_head", "(fork) Refit the class head in closed form on the fold's training cases: shrinkage LDA, "
                    "then temperature calibration. Validation cases are not read.",
                    "nnUNetv2_refit_class_head -d 777 -c 3d_fullres -f 0 -p nnUNetResEncUNetMPlans")
    add_trained_folds_flags(parser)
    parser.add_argument("-views", type=int, choices=(8, 4, 2, 1), default=2, help="mirrored views of each case to fit on; fewer are faster")
    add_device_flag(parser)
    args = parser.parse_args(argv)
    device = device_from_name(args.device)
    from nnunetv2.training.class_head_refit import refit_class_head as refit

    def every_fold() -> None:
        for fold in args.f:
            refit(model_folder(args), fold, args.chk, device=device, n_views=args.views)

    run(every_fold)

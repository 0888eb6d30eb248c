"""Overridden methods that would never be called are refused, so that no custom trainer trains otherwise than its author thinks."""

# Hooks of earlier versions of nnU-Net that nothing calls any more -> what took their place.
OUTDATED_HOOKS = {
    "get_plain_dataloaders": "override get_dataloaders",
    "_on_train_start": "override on_train_start", "_on_train_epoch_end": "override on_train_epoch_end",
    "_on_validation_epoch_end": "override on_validation_epoch_end", "_on_epoch_end": "override on_epoch_end", "_run_epoch": "override run_training",
}


def refuse_unknown_hooks(trainer: type) -> None:
    """TypeError, when a trainer class is defined, naming each hook of its own that is never called, with the remedy."""
    unused = [f"{name} ({remedy})" for name, remedy in OUTDATED_HOOKS.items() if name in vars(trainer)]
    if unused:
        raise TypeError(f"{trainer.__module__}.{trainer.__name__} overrides what is never called: {'; '.join(unused)}.")

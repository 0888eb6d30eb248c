"""nnU-Net's place for what starts a training."""

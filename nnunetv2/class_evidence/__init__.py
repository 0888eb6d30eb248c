"""What a case's class may show in, measured in millimetres and in the image's own units, and how much each of it is worth.

    case.py      a preprocessed case with its predicted masks, cut out around the organ
    blocks.py    named blocks of features of a case, each readable by itself
    head.py      the linear head over all blocks: fitted by shrinkage discriminants a block, weighed by predictions on left-out cases

The refit after training and prediction call the same functions on the same inputs.
"""

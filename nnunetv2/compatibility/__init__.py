"""nnU-Net's import paths, for code that was written against it.

The rooms of this package are laid out in their own way. `table.py` lists upstream's modules that have no file here, and where
each of their public names lives; `finder.py` serves them, so that `from nnunetv2.utilities.helpers import softmax_helper_dim1`
works though there is no such file. The other files hold small functions that other people's code calls and this package does not.
"""

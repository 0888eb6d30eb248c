"""From files to masks and classes. `predict_from_raw_data` is the way in."""

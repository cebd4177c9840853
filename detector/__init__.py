"""Train, evaluate and run the detectors that maenas describes."""

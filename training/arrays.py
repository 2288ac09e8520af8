"""The kinds of arrays that the training and its evaluation pass around."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Shares = NDArray[np.float64]

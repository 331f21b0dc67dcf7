"""What training and serving must agree on. A leaf: it imports nothing of ours, reads no file, opens no socket.

A dataset is added by writing one module beside ``housing.py`` and naming it in ``DATASETS``.
"""

from contract.dataset import Dataset
from contract.housing import HOUSING
from contract.iris import IRIS

DATASETS: dict[str, Dataset] = {dataset.name: dataset for dataset in (HOUSING, IRIS)}
"""The registry: every dataset the pipeline trains and the service serves, by name."""

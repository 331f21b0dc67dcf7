"""What training and serving must agree on. A leaf: it imports nothing of ours, reads no table, opens no socket.

A dataset is added by a module in ``contract/datasets``, which ``make dataset`` writes: ``docs/how-to/own-table.md``.
"""

from importlib import import_module
from pkgutil import iter_modules

from contract import datasets
from contract.dataset import Dataset


def _declared(name: str) -> Dataset:
    """The dataset that a module of ``contract/datasets`` declares.

    Raises:
        TypeError: it declares none, more than one, or one of another name, which its stage in dvc.yaml would not know.
    """
    found = [each for each in vars(import_module(f"{datasets.__name__}.{name}")).values() if isinstance(each, Dataset)]
    if [each.name for each in found] != [name]:
        raise TypeError(f"contract/datasets/{name}.py must declare one Dataset, of the name {name!r}.")
    return found[0]


DATASETS: dict[str, Dataset] = {each.name: _declared(each.name) for each in iter_modules(datasets.__path__)}
"""The registry: every dataset the pipeline trains and the service serves, by name."""

"""One module a dataset, named as the dataset is. ``contract.DATASETS`` has each of them."""

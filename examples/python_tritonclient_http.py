"""Raw bytes over HTTP, with Triton's client (pip install tritonclient[http])."""

import os

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput

address = os.environ.get("API_URL", "http://localhost:8000").removeprefix("http://")
key = os.environ.get("API_KEY")
headers = {"Authorization": f"Bearer {key}"} if key else None
rows = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]])  # sepal length and width, petal length and width, in cm

tensor = InferInput("input", rows.shape, "FP64")
tensor.set_data_from_numpy(rows)
with InferenceServerClient(address) as client:
    result = client.infer("iris", [tensor], headers=headers)

print(result.as_numpy("predict").ravel().tolist())
print([label.decode() for label in result.as_numpy("label").ravel()])
print(result.as_numpy("probabilities").tolist())

"""gRPC, a tensor for each feature, with Triton's client (pip install tritonclient[grpc])."""

import os

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput

os.environ.setdefault("no_proxy", "localhost,127.0.0.1,::1")  # a proxy cannot reach this machine
address = os.environ.get("GRPC_ADDRESS", "localhost:8001")
key = os.environ.get("API_KEY")
headers = {"authorization": f"Bearer {key}"} if key else None
columns = {"MedInc": [8.3252, 2], "HouseAge": [41, 20], "AveRooms": [6.984127, 5], "AveBedrms": [1.02381, 1]}
columns |= {"Population": [322, 900], "AveOccup": [2.555556, 3], "Latitude": [37.88, 34], "Longitude": [-122.23, -118]}

tensors = [InferInput(name, [2], "FP64") for name in columns]
for tensor, values in zip(tensors, columns.values(), strict=True):
    tensor.set_data_from_numpy(np.array(values, dtype=np.float64))
with InferenceServerClient(address) as client:
    result = client.infer("housing", tensors, headers=headers)

print(result.as_numpy("predict").ravel().tolist())

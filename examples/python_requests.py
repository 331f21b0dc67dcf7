"""One row, a batch, and the Open Inference Protocol in JSON, with requests (pip install requests)."""

import os

import requests

os.environ.setdefault("no_proxy", "localhost,127.0.0.1,::1")  # a proxy cannot reach this machine
url = os.environ.get("API_URL", "http://localhost:8000")
service = requests.Session()
if key := os.environ.get("API_KEY"):
    service.headers["Authorization"] = f"Bearer {key}"
row = {"MedInc": 8.3252, "HouseAge": 41, "AveRooms": 6.984127, "AveBedrms": 1.02381}
row |= {"Population": 322, "AveOccup": 2.555556, "Latitude": 37.88, "Longitude": -122.23}

one = service.post(f"{url}/predict/housing", json=row, timeout=10)
batch = service.post(f"{url}/predict/housing/batch", json={"rows": [row, row | {"MedInc": 2}]}, timeout=10)
v2 = service.post(
    f"{url}/v2/models/housing/infer",
    json={"inputs": [{"name": "input", "datatype": "FP64", "shape": [1, 8], "data": list(row.values())}]},
    timeout=10,
)

print(one.json()["prediction"])
print([value["prediction"] for value in batch.json()["predictions"]])
print(v2.json()["outputs"][0]["data"])

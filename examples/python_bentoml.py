"""One row and a batch with BentoML's own client (pip install bentoml). Its methods take one positional argument."""

import os

import bentoml

os.environ.setdefault("no_proxy", "localhost,127.0.0.1,::1")  # a proxy cannot reach this machine
url = os.environ.get("API_URL", "http://localhost:8000")
row = {"MedInc": 8.3252, "HouseAge": 41, "AveRooms": 6.984127, "AveBedrms": 1.02381}
row |= {"Population": 322, "AveOccup": 2.555556, "Latitude": 37.88, "Longitude": -122.23}

with bentoml.SyncHTTPClient(url, token=os.environ.get("API_KEY")) as service:
    one = service.call("predict_housing", row)  # the same as service.predict_housing(row)
    batch = service.call("predict_housing_batch", {"rows": [row, row | {"MedInc": 2}]})

print(one["prediction"])
print([value["prediction"] for value in batch["predictions"]])

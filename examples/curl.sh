#!/usr/bin/env bash
# One row, a batch, and the Open Inference Protocol in JSON, with curl. API_URL: where the service is. API_KEY: a key, if
# it asks for one.
set -euo pipefail
export no_proxy=${no_proxy-localhost,127.0.0.1,::1}
url=${API_URL:-http://localhost:8000}
post() {
  curl --silent --show-error --fail-with-body ${API_KEY:+--oauth2-bearer "$API_KEY"} --json "$2" --write-out '\n' "$url$1"
}

post /predict/iris '{"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}'
post /predict/iris/batch '{"rows": [{"sepal_length": 6.7, "sepal_width": 3, "petal_length": 5.2, "petal_width": 2.3}]}'
post /v2/models/iris/infer '{"inputs": [
  {"name": "input", "datatype": "FP64", "shape": [2, 4], "data": [[5.1, 3.5, 1.4, 0.2], [6.7, 3, 5.2, 2.3]]}]}'

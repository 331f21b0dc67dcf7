#!/usr/bin/env bash
# gRPC with grpcurl (https://github.com/fullstorydev/grpcurl), which asks the service for its methods by reflection.
# GRPC_ADDRESS: where the service is. API_KEY: a key, if it asks for one.
set -euo pipefail
address=${GRPC_ADDRESS:-localhost:8001}
call() { grpcurl -plaintext ${API_KEY:+-H "authorization: Bearer $API_KEY"} "$@"; }

call -d '{"service": "housing"}' "$address" grpc.health.v1.Health/Check
call -d '{"model_name": "housing", "inputs": [{"name": "input", "datatype": "FP64", "shape": [2, 8],
  "contents": {"fp64_contents": [8.3252, 41, 6.984127, 1.02381, 322, 2.555556, 37.88, -122.23,
                                 2, 20, 5, 1, 900, 3, 34, -118]}}]}' \
  "$address" inference.GRPCInferenceService/ModelInfer

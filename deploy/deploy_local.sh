#!/usr/bin/env bash
# Deploys on this machine: builds the image, starts it with compose, and keeps it only if it predicts.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly IMAGE=ml-prediction-bundle
readonly LOCK=.deploy.lock

usage() {
    cat <<'USAGE'
Usage: deploy/deploy_local.sh [--full] [--no-build]   build the image, start it, verify it
       deploy/deploy_local.sh --status                what runs, and is it ready?
       deploy/deploy_local.sh --rollback              back to the image before; run it again to roll forward
       deploy/deploy_local.sh --stop                  stop all; volumes and images stay

  --full      Prometheus, Alertmanager, Grafana, MLflow and PostgreSQL too; DEPLOY_MONITORING=true says the same
  --no-build  deploy the ml-prediction-bundle:latest that is there, and do not run `make image`
  --help      this text

An image that does not become ready, or does not predict over HTTP and gRPC, is taken back: what ran before runs again,
and the exit status is 1. While one container replaces the other, for some seconds, nobody answers.

Variables, in the environment or in .env (see .env.example): ports, passwords, and
  CONTAINER_ENGINE  docker or podman; by default the first that answers and has a compose
  READY_TIMEOUT     seconds that a start may take; by default 120
  API_KEY           a key to verify with, if the service asks for one
USAGE
}

say() { printf '==> %s\n' "$*"; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# setting NAME DEFAULT: as compose reads it, from the environment, else from .env.
setting() {
    local value=
    if [[ -n ${!1+set} ]]; then
        value=${!1}
    elif [[ -f .env ]]; then
        value=$(sed -nE "s/^[[:space:]]*(export[[:space:]]+)?$1=//p" .env | tail -n 1)
        value=${value%$'\r'}
        if [[ $value =~ ^\"(.*)\"$ || $value =~ ^\'(.*)\'$ ]]; then value=${BASH_REMATCH[1]}; fi
    fi
    printf '%s' "${value:-$2}"
}

# Sets ENGINE and COMPOSE.
find_compose() {
    local wanted
    wanted=$(setting CONTAINER_ENGINE "")
    if [[ ${wanted:-docker} == docker ]] && docker info >/dev/null 2>&1; then
        ENGINE=docker
        if docker compose version >/dev/null 2>&1; then
            COMPOSE=(docker compose)
            return
        fi
    fi
    if [[ ${wanted:-podman} == podman ]] && podman info >/dev/null 2>&1; then
        ENGINE=podman
        local candidate
        for candidate in podman-compose .venv/bin/podman-compose; do
            if command -v "$candidate" >/dev/null; then
                COMPOSE=("$candidate")
                return
            fi
        done
    fi
    fail "No ${wanted:-docker or podman} that answers and has a compose. See \`docker info\` and \`docker compose version\`," \
        "or \`podman info\` and \`podman-compose version\` (\`make setup\` installs podman-compose)."
}

compose() { "${COMPOSE[@]}" "$@"; }

# container [SERVICE] [--all]: the id of its container, if it runs, or with --all in any state; else nothing.
container() {
    "$ENGINE" ps --quiet --filter "label=com.docker.compose.project=$PROJECT" \
        --filter "label=com.docker.compose.service=${1:-ml-api}" "${@:2}" | head -n 1
}

# image_id TAG: the id of our image of this tag; nothing if there is none.
image_id() { "$ENGINE" image inspect --format '{{.Id}}' "$IMAGE:$1" 2>/dev/null || true; }

# The id of the image that runs; nothing if none does.
running_image() {
    local id
    id=$(container)
    if [[ -n $id ]]; then "$ENGINE" inspect --format '{{.Image}}' "$id"; fi
}

# tag NAME ID: without an id, the tag goes.
tag() {
    if [[ -n $2 ]]; then
        "$ENGINE" tag "$2" "$IMAGE:$1"
    elif [[ -n $(image_id "$1") ]]; then
        "$ENGINE" rmi "$IMAGE:$1" >/dev/null
    fi
}

short() { printf '%.12s' "${1#sha256:}"; }

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# get URL [OPTION]…: the certificate of the service is for another name than that of the loopback address.
get() { curl --silent --insecure --noproxy '*' --max-time 5 "${@:2}" "$1"; }

answers() { get "$1" --fail --output /dev/null; }

check_passwords() {
    local name
    for name in GRAFANA_ADMIN_PASSWORD POSTGRES_PASSWORD LEDGER_PASSWORD; do
        [[ -n $(setting "$name" "") ]] ||
            fail "$name is not set, and the full stack needs it. \`cp .env.example .env\`, and set it there."
    done
}

# check_port SERVICE VARIABLE PORT: free, or ours already.
check_port() {
    if listens "$3" && [[ -z $(container "$1") ]]; then
        fail "Port $3 is in use: \`ss -ltnp 'sport = :$3'\` shows by whom. Stop that, or set $2."
    fi
}

check_ports() {
    check_port ml-api API_PORT "$API_PORT"
    check_port ml-api GRPC_PORT "$GRPC_PORT"
    if [[ $ACTION == deploy && $FULL == true ]]; then
        local name port
        while read -r name port _; do
            check_port "$name" "$(tr '[:lower:]' '[:upper:]' <<<"$name")_PORT" "$port"
        done < <(stack)
    fi
}

# Starts the image that is tagged latest in the place of the one that runs; 1 if it does not become ready.
start() {
    STARTED=yes
    compose up --detach --force-recreate --no-build ml-api || {
        say "Compose does not start it."
        return 1
    }
    local deadline=$((SECONDS + READY_TIMEOUT))
    until answers "$URL/readyz"; do
        # Compose starts it anew when it ends, so that a look at the wrong moment would find it running.
        case $("$ENGINE" inspect --format '{{.State.Status}} {{.RestartCount}}' "$(container ml-api --all)" || true) in
        "running 0" | "created 0" | "initialized 0") ;;
        *)
            say "It stopped while starting."
            return 1
            ;;
        esac
        if ((SECONDS >= deadline)); then
            say "It was not ready within $READY_TIMEOUT seconds (READY_TIMEOUT)."
            return 1
        fi
        sleep 0.2
    done
}

# Through the published port, and, over gRPC, in the container, where its libraries are. With TLS they would ask for the
# name in the certificate, so that only the port is looked at.
verify() {
    python3 deploy/verify.py --http "$URL" --insecure || return 1
    if [[ $SCHEME == http ]]; then
        "$ENGINE" exec --interactive --env API_KEY "$(container)" python3 - \
            --http http://127.0.0.1:8000 --grpc 127.0.0.1:8001 <deploy/verify.py || return 1
    fi
    listens "$GRPC_PORT" || { say "Nobody listens on port $GRPC_PORT."; return 1; }
}

# Set while an image is being replaced: what to go back to when the script ends, however it ends.
REPLACING=
STARTED=        # the container too, not only the tag
FORMER_RUNNING= # its image id; empty if nothing ran
FORMER_LATEST=

finish() {
    local status=$?
    trap : INT TERM # Once begun, it is done.
    if [[ -n $REPLACING ]]; then restore || true; fi
    rm -f "$LOCK"
    exit "$status"
}

restore() {
    REPLACING=
    if [[ -z $STARTED ]]; then
        tag latest "$FORMER_LATEST"
        return
    fi
    tag latest "${FORMER_RUNNING:-$FORMER_LATEST}"
    if [[ -n $FORMER_RUNNING ]]; then
        say "Restore what ran before: image $(short "$FORMER_RUNNING")"
        if start && verify; then
            say "What ran before runs again."
        else
            printf 'error: %s\n' "What ran before does not run either. Look at \`${COMPOSE[*]} logs ml-api\`." >&2
        fi
    else
        say "Nothing ran before: remove it."
        local id
        id=$(container ml-api --all)
        if [[ -n $id ]]; then "$ENGINE" rm --force "$id" >/dev/null; fi
    fi
}

# Remembers what is there, before `latest` changes.
remember() {
    FORMER_RUNNING=$(running_image)
    FORMER_LATEST=$(image_id latest)
    REPLACING=yes
}

show_log() {
    local id
    id=$(container ml-api --all)
    if [[ -z $id ]]; then return; fi
    say "The end of its log:"
    "$ENGINE" logs --tail 50 "$id" 2>&1 | sed 's/^/    /'
}

# Starts and verifies `latest`; then what was there before is `previous`.
replace() {
    local new former=${FORMER_RUNNING:-$FORMER_LATEST}
    new=$(image_id latest)
    say "Start image $(short "$new")"
    if ! { start && say "Verify with predictions" && verify; }; then
        show_log
        restore
        fail "Image $(short "$new") does not serve, and is not deployed."
    fi
    REPLACING=
    if [[ -n $former && $former != "$new" ]]; then tag previous "$former"; fi
}

start_stack() {
    say "Start monitoring and tracking"
    compose --profile full up --detach
    local name port path deadline=$((SECONDS + 2 * READY_TIMEOUT))
    while read -r name port path; do
        until answers "http://$TOOLS:$port$path"; do
            ((SECONDS < deadline)) ||
                fail "$name does not answer on port $port. The service itself is deployed. Look at \`${COMPOSE[*]} logs $name\`."
            sleep 0.5
        done
    done < <(stack)
    local query="http://$TOOLS:$PROMETHEUS_PORT/api/v1/query"
    until curl --silent --noproxy '*' --max-time 5 --get --data-urlencode 'query=up{job="ml-api"} == 1' "$query" |
        grep -q '"value"'; do
        ((SECONDS < deadline)) ||
            fail "Prometheus does not reach the service: http://$TOOLS:$PROMETHEUS_PORT/targets shows why. The service itself is deployed."
        sleep 0.5
    done
}

stack() {
    printf '%s\n' "prometheus $PROMETHEUS_PORT /-/ready" "alertmanager $(setting ALERTMANAGER_PORT 9093) /-/ready" \
        "grafana $(setting GRAFANA_PORT 3000) /api/health" "mlflow $(setting MLFLOW_PORT 5000) /health"
}

show_urls() {
    local name port path
    echo
    printf '%-14s%s\n' "API" "$URL (its page: $URL/docs)" "gRPC" "localhost:$GRPC_PORT" "metrics" "$URL/metrics"
    while read -r name port path; do
        if answers "http://$TOOLS:$port$path"; then printf '%-14s%s\n' "$name" "http://$TOOLS:$port"; fi
    done < <(stack)
}

lock() {
    if ! ln -s "$$" "$LOCK" 2>/dev/null; then
        local other
        other=$(readlink "$LOCK")
        if kill -0 "$other" 2>/dev/null; then fail "Another deployment is running: process $other."; fi
        ln -sfn "$$" "$LOCK" # Left by one that was killed.
    fi
    trap finish EXIT
}

deploy() {
    lock
    if [[ $FULL == true ]]; then
        check_passwords
        # The full stack has a PostgreSQL for the ledger.
        if [[ -z $(setting DATABASE_URL "") ]]; then export DATABASE_URL=postgresql://ledger@postgres:5432/ledger; fi
    fi
    check_ports
    remember
    if [[ $BUILD == true ]]; then
        say "Build the image (make image)"
        make image IMAGE_OPTIONS="--engine $ENGINE ${IMAGE_OPTIONS:-}"
    fi
    [[ -n $(image_id latest) ]] || fail "$ENGINE has no image $IMAGE:latest: \`make image\` builds it."
    replace
    if [[ $FULL == true ]]; then start_stack; fi
    say "Deployed: image $(short "$(image_id latest)")"
    show_urls
}

rollback() {
    local previous
    lock
    previous=$(image_id previous)
    [[ -n $previous ]] || fail "There is no image $IMAGE:previous to go back to: nothing was deployed before what is there now."
    check_ports
    remember
    [[ $previous != "${FORMER_RUNNING:-$FORMER_LATEST}" ]] || fail "$IMAGE:previous is what runs already."
    tag latest "$previous"
    replace
    say "Back at image $(short "$previous")"
    show_urls
}

status() {
    local running previous
    compose ps || true
    running=$(running_image)
    previous=$(image_id previous)
    echo
    printf '%-14s%s\n' "image" "$(short "${running:-none runs}")" "previous" "$(short "${previous:-none}")"
    if ! answers "$URL/readyz"; then
        printf '%-14s%s\n' "service" "not ready: ${COMPOSE[*]} logs ml-api"
        exit 1
    fi
    printf '%-14s%s\n' "service" "ready" "health" "$(get "$URL/health")"
    show_urls
}

stop() {
    lock
    compose --profile full --profile loop down
    say "Stopped. Volumes and images are still there."
}

ACTION=deploy
BUILD=true
FULL=$(setting DEPLOY_MONITORING false)
while (($#)); do
    case $1 in
    --full) FULL=true ;;
    --no-build) BUILD=false ;;
    --status | --stop | --rollback)
        [[ $ACTION == deploy ]] || fail "One of --status, --stop and --rollback at a time."
        ACTION=${1#--}
        ;;
    -h | --help)
        usage
        exit
        ;;
    *)
        usage >&2
        exit 2
        ;;
    esac
    shift
done
[[ $FULL == true || $FULL == false ]] || fail "DEPLOY_MONITORING=$FULL: true or false."

PROJECT=$(setting COMPOSE_PROJECT_NAME ml-prediction-bundle)
API_PORT=$(setting API_PORT 8000)
GRPC_PORT=$(setting GRPC_PORT 8001)
PROMETHEUS_PORT=$(setting PROMETHEUS_PORT 9090)
READY_TIMEOUT=$(setting READY_TIMEOUT 120)
TOOLS=$(setting BIND_ADDRESS 127.0.0.1)
if [[ $TOOLS == 0.0.0.0 ]]; then TOOLS=127.0.0.1; fi
API_KEY=$(setting API_KEY "")
export API_KEY
SCHEME=http
if [[ -n $(setting TLS_CERT_FILE "") ]]; then SCHEME=https; fi
readonly PROJECT API_PORT GRPC_PORT PROMETHEUS_PORT READY_TIMEOUT TOOLS SCHEME URL=$SCHEME://127.0.0.1:$API_PORT
if [[ $ACTION != stop && -n $(setting TLS_CLIENT_CA_FILE "") ]]; then
    fail "With TLS_CLIENT_CA_FILE the service asks for a certificate, and this script has none to verify it with." \
        "Use \`docker compose up -d\`, whose health check has one: docs/tls.md."
fi
find_compose
"$ACTION"

#!/usr/bin/env bash
# Runs docker-compose.yml as it is, and then its cluster, with the sample's records: a worker is
# killed in the middle, and one of three brokers. In the end every record must have one outcome, the
# limit must have held, and Genesys Cloud must show what the newest records say (promises/main.go).
#
#   compose.sh [one] [three]      one broker, three, or without a word both
#
# It needs a Docker engine and Go, and no registry: base images that are missing are made from this
# machine's own programs. Nothing of it is left behind but the images. Takes about four minutes, and
# the first time as long again to build.
set -euo pipefail
cd "$(dirname "$0")/../.."

skip() {
	echo "compose: skipped, $1"
	exit 0
}
command -v docker >/dev/null || skip "there is no docker command"
docker info >/dev/null 2>&1 || skip "there is no Docker engine that answers"
if docker compose version >/dev/null 2>&1; then
	compose=(docker compose)
elif command -v docker-compose >/dev/null; then
	compose=(docker-compose)
else
	skip "there is neither docker compose nor docker-compose"
fi

# What somebody's shell or .env says must not steer this into a real org.
for name in $(compgen -e | grep -E '^(GENESYS|NATS_|SKILLSYNC_|OTEL_)' || true); do
	case $name in SKILLSYNC_*_PORT) ;; *) unset "$name" ;; esac
done
export COMPOSE_PROJECT_NAME=skillsync-test-$$ COMPOSE_IGNORE_ORPHANS=true GENESYS_API_URL=http://sandbox:8780
export GENESYS_CLIENT_ID=sandbox GENESYS_CLIENT_SECRET_PATH=./deploy/sandbox-secret.txt GENESYS_EXTERNAL_ID_AUTHORITY=hris
export OTEL_EXPORTER_OTLP_ENDPOINT= # nor send its traces to anybody
free() { shuf -i 20000-29999 -n 1; }
export SKILLSYNC_NATS_PORT=${SKILLSYNC_NATS_PORT:-$(free)} SKILLSYNC_SANDBOX_PORT=${SKILLSYNC_SANDBOX_PORT:-$(free)}
export SKILLSYNC_CONSOLE_PORT=${SKILLSYNC_CONSOLE_PORT:-$(free)}
export NATS_URL=nats://127.0.0.1:$SKILLSYNC_NATS_PORT SANDBOX_URL=http://127.0.0.1:$SKILLSYNC_SANDBOX_PORT NATS_USER=operator
# Twice the default, so that it is done sooner: the records take two requests each.
export SKILLSYNC_LIMIT=600
records=196 files=(-f docker-compose.yml)

dir=$(mktemp -d)
run() { "${compose[@]}" "${files[@]}" "$@"; }
down() { run down -v --timeout 5 >/dev/null 2>&1 || true; }
end() {
	code=$?
	trap - EXIT INT TERM
	if [ $code -ne 0 ]; then
		run ps || true
		run logs --no-color --tail 40 || true
		echo "compose: failed after ${SECONDS}s"
	fi
	down
	rm -rf "$dir"
	exit $code
}
trap end EXIT
trap 'exit 1' INT TERM
step() { printf -- '-- %s (%ss)\n' "$*" "$SECONDS"; }

# container SERVICE: the first of a service
container() { run ps -q "$1" | head -n 1; }

for image in $(awk '$1 == "FROM" && $2 != "scratch" { print $2 }' deploy/Dockerfile) $(awk '$1 == "image:" && $2 ~ /^nats:/ { print $2; exit }' docker-compose.yml); do
	docker image inspect "$image" >/dev/null 2>&1 || docker pull -q "$image" >/dev/null 2>&1 || missing=1
done
if [ -n "${missing:-}" ]; then
	step "making the base images"
	deploy/testdata/base-images.sh >"$dir/base.log" 2>&1 || { cat "$dir/base.log"; exit 1; }
fi
step "building"
go build -o "$dir/promises" ./deploy/test/promises
run build -q setup >"$dir/build.log" 2>&1 || { tail -50 "$dir/build.log"; exit 1; }
size=$(docker image inspect -f '{{.Size}}' skillsync)
[ "$size" -lt 40000000 ] || { echo "the image has $size bytes"; exit 1; }
[ "$(docker image inspect -f '{{.Config.User}}' skillsync)" = 65532:65532 ]

# sample VARIANT FAULT: everything up, the sample published, and in the middle a fault
sample() {
	step "$1: up"
	run up -d >"$dir/up.log" 2>&1 || { cat "$dir/up.log"; exit 1; }
	NATS_PASSWORD=$(run run --rm -T secrets operator 2>"$dir/secrets.log" | tr -d '\r\n')
	export NATS_PASSWORD
	step "$1: publish"
	run run --rm -T publish --json /samples/employees.csv >"$dir/published" 2>"$dir/publish.log" || true # four rows are no records
	grep -q "\"published\":$records" "$dir/published" || { cat "$dir/published" "$dir/publish.log"; exit 1; }
	"$dir/promises" settled 30
	step "$1: $2"
	"$2"
	"$dir/promises" settled "$records"
	"$dir/promises" kept "$records" "$SKILLSYNC_LIMIT" deploy/samples/employees.csv deploy/samples/mapping.yaml
	operator
	step "$1: done"
}

kill_worker() { docker kill "$(run ps -q worker | tail -n 1)" >/dev/null; }
kill_broker() { docker kill "$(container nats-2)" >/dev/null; }

# operator: the commands and the page are let in, as the operator and no more
operator() {
	run run --rm -T skillsync status >"$dir/status" 2>"$dir/status.log"
	grep -q '^dead letters ' "$dir/status"
	if run run --rm -T skillsync setup --max-bytes 1000000 >"$dir/forbidden" 2>&1; then
		echo "an operator has changed a stream"
		exit 1
	fi
	grep -q 'forbidden by the broker' "$dir/forbidden" || { cat "$dir/forbidden"; exit 1; }
	exec 3<>"/dev/tcp/127.0.0.1/$SKILLSYNC_CONSOLE_PORT"
	printf 'GET / HTTP/1.0\r\nHost: 127.0.0.1:%s\r\n\r\n' "$SKILLSYNC_CONSOLE_PORT" >&3
	head -n 1 <&3 | grep -qE '^HTTP/1\.[01] (200|30[237]|401) '
	exec 3>&-
	for service in console sandbox worker; do
		[ "$(docker inspect -f '{{.State.Health.Status}}' "$(container "$service")")" = healthy ] || { echo "$service is not healthy"; exit 1; }
	done
}

which=" ${*:-one three} "
if [[ $which == *" one "* ]]; then
	sample "one broker" kill_worker
	down
fi
if [[ $which == *" three "* ]]; then
	files+=(-f deploy/compose.cluster.yml)
	sample "three brokers" kill_broker
fi
echo "compose: all promises kept (${SECONDS}s)"

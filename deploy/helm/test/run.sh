#!/usr/bin/env bash
# Lints and tests the chart. Needs Go; installs helm, for this run only, if it is not there.
set -euo pipefail
cd "$(dirname "$0")"

helm_version=v3.22.0

HELM=${HELM:-helm}
if ! command -v "$HELM" >/dev/null; then
	bin=$(mktemp -d)
	trap 'rm -rf "$bin"' EXIT
	echo "== installing helm $helm_version (${SECONDS}s)"
	GOBIN=$bin go install "helm.sh/helm/v3/cmd/helm@$helm_version"
	HELM=$bin/helm
fi
HELM=$(command -v "$HELM")
export HELM

for values in default full; do
	echo "== helm lint, $values values (${SECONDS}s)"
	"$HELM" lint --strict ../skillsync --values "../skillsync/ci/$values-values.yaml"
done

echo "== tests (${SECONDS}s)"
go mod tidy -diff
go vet ./...
go test ./...
echo "== done (${SECONDS}s)"

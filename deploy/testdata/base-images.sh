#!/usr/bin/env bash
# Makes stand-ins for the images that docker-compose.yml and deploy/Dockerfile are built on, under
# the very tags they name, for a machine that has a Docker engine, Go and apt but no registry.
set -euo pipefail
cd "$(dirname "$0")/../.."

go_image=$(awk '$1 == "FROM" && $2 ~ /^golang:/ { print $2 }' deploy/Dockerfile)
nats_image=$(awk '$1 == "image:" && $2 ~ /^nats:/ { print $2; exit }' docker-compose.yml)
nats_version=${nats_image#nats:}
nats_version=${nats_version%-alpine}

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/bin" "$dir/deb"

# A shell, wget and the like, as one static program.
download=(apt-get -o APT::Sandbox::User=root -qq download busybox-static)
(cd "$dir/deb" && { "${download[@]}" 2>/dev/null || { apt-get update -qq && "${download[@]}"; }; } && dpkg-deb -x busybox-static_*.deb .)
cp "$dir/deb/bin/busybox" "$dir/bin/"

CGO_ENABLED=0 GOBIN="$dir/bin" go install -ldflags "-s -w" "github.com/nats-io/nats-server/v2@v$nats_version"
docker build -q -t "$nats_image" -f - "$dir" <<'EOF'
FROM scratch
COPY bin/busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
COPY bin/nats-server /usr/local/bin/nats-server
ENV PATH=/usr/local/bin:/bin
CMD ["nats-server"]
EOF

# Go itself is too large to copy about: it goes to the engine as a stream, and so does what Go
# has downloaded already.
cp -L /etc/ssl/certs/ca-certificates.crt "$dir/"
tar -c \
	--transform "s,^${dir#/}/bin/busybox,bin/busybox," \
	--transform "s,^${dir#/}/ca-certificates.crt,etc/ssl/certs/ca-certificates.crt," \
	--transform "s,^$(go env GOROOT | cut -c2-),usr/local/go," \
	--transform "s,^$(go env GOMODCACHE | cut -c2-)/cache/download,go/pkg/mod/cache/download," \
	-C / "${dir#/}/bin/busybox" "${dir#/}/ca-certificates.crt" "$(go env GOROOT | cut -c2-)" "$(go env GOMODCACHE | cut -c2-)/cache/download" |
	docker import - "$go_image-bare" >/dev/null
docker build -q -t "$go_image" - <<EOF
FROM $go_image-bare
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN mkdir -m 1777 /tmp
ENV PATH=/usr/local/go/bin:/bin GOPATH=/go GOTOOLCHAIN=local
EOF
docker rmi "$go_image-bare" >/dev/null

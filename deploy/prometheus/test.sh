#!/usr/bin/env bash
# Checks alerts.yaml and prometheus.yml, and runs alerts_test.yaml. Takes promtool from the PATH or
# from $PROMTOOL, else out of Debian's package, of which nothing is installed and no service started.
set -euo pipefail
cd "$(dirname "$0")"

promtool=${PROMTOOL:-$(command -v promtool || true)}
if [ -z "$promtool" ]; then
	dir=${TMPDIR:-/tmp}/skillsync-promtool
	promtool=$dir/usr/bin/promtool
	if [ ! -x "$promtool" ]; then
		mkdir -p "$dir"
		download=(apt-get -o APT::Sandbox::User=root -qq download prometheus)
		(cd "$dir" && { "${download[@]}" 2>/dev/null || { apt-get update -qq && "${download[@]}"; }; } && dpkg-deb -x prometheus_*.deb . && rm prometheus_*.deb)
	fi
fi

"$promtool" check rules alerts.yaml
"$promtool" check config prometheus.yml
"$promtool" test rules alerts_test.yaml

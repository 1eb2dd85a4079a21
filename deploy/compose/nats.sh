#!/bin/sh
# Starts a broker of docker-compose.yml with the passwords from files, which its configuration takes
# from the environment. NATS_PEERS, if there are any, are all members of its cluster.
#
#   nats.sh CONFIGURATION
set -eu

secret() { cat "/run/skillsync/$1"; }

# Quoted, since the configuration would take digits alone for a number.
NATS_ETL_PASSWORD="'$(secret etl)'"
NATS_WORKER_PASSWORD="'$(secret worker)'"
NATS_OPERATOR_PASSWORD="'$(secret operator)'"
NATS_ADMIN_PASSWORD="'$(secret admin)'"
NATS_ROUTE_PASSWORD="'$(secret route)'"
NATS_ROUTES=
for peer in ${NATS_PEERS:-}; do
	NATS_ROUTES="${NATS_ROUTES:+$NATS_ROUTES, }\"nats://route:$(secret route)@$peer:6222\""
done
NATS_ROUTES="[$NATS_ROUTES]"
export NATS_ETL_PASSWORD NATS_WORKER_PASSWORD NATS_OPERATOR_PASSWORD NATS_ADMIN_PASSWORD NATS_ROUTE_PASSWORD NATS_ROUTES

exec nats-server --config "$1"

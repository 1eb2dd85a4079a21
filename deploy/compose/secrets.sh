#!/bin/sh
# Gives each service of docker-compose.yml its passwords, in a volume that only it and its like can
# read: what somebody has given, or else a random one, made once. It needs no given file to be
# readable by the services' user.
#
#   secrets.sh          give
#   secrets.sh NAME     print one: console is the token that the page asks for
set -eu
umask 077

if [ $# -gt 0 ]; then
	cat "/made/all/$1"
	echo
	exit
fi

# Letters and digits only, the first one a letter: no configuration takes it for a number.
random() { echo "s$(head -c 32 /dev/urandom | sha256sum | cut -c 1-47)"; }

for name in etl worker operator admin route console; do
	given=$(cat "/run/secrets/$name")
	if [ -z "$given" ]; then
		[ ! -s "/made/all/$name" ] || continue
		given=$(random)
	fi
	printf %s "$given" >"/made/all/$name.new"
	mv "/made/all/$name.new" "/made/all/$name"
done

# put NAME VOLUME FILE: for the user that the services run as
put() {
	cp "/made/all/$1" "/made/$2/$3.new"
	chown 65532:65532 "/made/$2" "/made/$2/$3.new"
	mv "/made/$2/$3.new" "/made/$2/$3"
}
put etl etl nats
put worker worker nats
put operator operator nats
put admin admin nats
put console operator token

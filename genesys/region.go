package genesys

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
)

// regions maps the AWS region to the domain of each public Genesys Cloud region, as Genesys's
// own JavaScript SDK has them (PureCloudRegionHosts.js).
var regions = map[string]string{
	"us-east-1":      "mypurecloud.com",
	"us-east-2":      "use2.us-gov-pure.cloud", // FedRAMP
	"us-west-2":      "usw2.pure.cloud",
	"ca-central-1":   "cac1.pure.cloud",
	"mx-central-1":   "mxc1.pure.cloud",
	"sa-east-1":      "sae1.pure.cloud",
	"eu-west-1":      "mypurecloud.ie",
	"eu-west-2":      "euw2.pure.cloud",
	"eu-central-1":   "mypurecloud.de",
	"eu-central-2":   "euc2.pure.cloud",
	"eusc-de-east-1": "edee1.eusc-pure.cloud", // EU sovereign
	"me-central-1":   "mec1.pure.cloud",
	"ap-south-1":     "aps1.pure.cloud",
	"ap-southeast-1": "apse1.pure.cloud",
	"ap-southeast-2": "mypurecloud.com.au",
	"ap-northeast-1": "mypurecloud.jp",
	"ap-northeast-2": "apne2.pure.cloud",
	"ap-northeast-3": "apne3.pure.cloud",
}

// Hosts returns the base URLs of the API and of the sign-in of a region: the name of an AWS
// region in either spelling ("eu-central-1", "eu_central_1") or a domain ("mypurecloud.de").
// For localhost and IP addresses, with or without a port, both are one plain HTTP host.
// Anything else is an error that lists the known regions.
func Hosts(region string) (api, login string, err error) {
	name := strings.ToLower(strings.TrimSpace(region))
	domain, ok := regions[strings.ReplaceAll(name, "_", "-")]
	switch {
	case ok:
	case isLocal(name):
		return "http://" + name, "http://" + name, nil
	case isDomain(name):
		domain = name
	default:
		return "", "", fmt.Errorf("genesys: unknown region %q: give a domain such as mypurecloud.de, or one of %s",
			region, strings.Join(slices.Sorted(maps.Keys(regions)), ", "))
	}
	return "https://api." + domain, "https://login." + domain, nil
}

// isLocal reports whether name is localhost or an IP address, perhaps with a port.
func isLocal(name string) bool {
	host, _, err := net.SplitHostPort(name)
	if err != nil {
		host = name
	}
	return host == "localhost" || net.ParseIP(host) != nil
}

// isDomain reports whether name has a dot and nothing that a domain cannot have.
func isDomain(name string) bool {
	strange := func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789-.:", r)
	}
	return strings.Contains(name, ".") && !strings.ContainsFunc(name, strange)
}

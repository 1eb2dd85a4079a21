package genesys

import (
	"strings"
	"testing"
)

func TestHostsOfARegion(t *testing.T) {
	for region, want := range map[string][2]string{
		"us-east-1":            {"https://api.mypurecloud.com", "https://login.mypurecloud.com"},
		"EU_Central_1":         {"https://api.mypurecloud.de", "https://login.mypurecloud.de"},
		" me_central_1 ":       {"https://api.mec1.pure.cloud", "https://login.mec1.pure.cloud"},
		"me-central-1":         {"https://api.mec1.pure.cloud", "https://login.mec1.pure.cloud"},
		"us-east-2":            {"https://api.use2.us-gov-pure.cloud", "https://login.use2.us-gov-pure.cloud"},
		"eusc-de-east-1":       {"https://api.edee1.eusc-pure.cloud", "https://login.edee1.eusc-pure.cloud"},
		"mypurecloud.de":       {"https://api.mypurecloud.de", "https://login.mypurecloud.de"},
		"MyPureCloud.COM.au":   {"https://api.mypurecloud.com.au", "https://login.mypurecloud.com.au"},
		"new1.pure.cloud:8443": {"https://api.new1.pure.cloud:8443", "https://login.new1.pure.cloud:8443"},
		"localhost":            {"http://localhost", "http://localhost"},
		"localhost:8080":       {"http://localhost:8080", "http://localhost:8080"},
		"127.0.0.1:8080":       {"http://127.0.0.1:8080", "http://127.0.0.1:8080"},
		"[::1]:8080":           {"http://[::1]:8080", "http://[::1]:8080"},
	} {
		api, login, err := Hosts(region)
		if err != nil || api != want[0] || login != want[1] {
			t.Errorf("%q: %s, %s, %v", region, api, login, err)
		}
	}
	if len(regions) != 18 {
		t.Errorf("%d regions in the table, want 18", len(regions))
	}
}

func TestAnUnknownRegionIsToldTheKnownOnes(t *testing.T) {
	for _, region := range []string{"", "eu-central-9", "https://api.mypurecloud.de", "a.b/c", "user@a.b", "a b.c"} {
		_, _, err := Hosts(region)
		if err == nil {
			t.Errorf("%q: no error", region)
			continue
		}
		for known := range regions {
			if !strings.Contains(err.Error(), known) {
				t.Errorf("%q: %v lacks %s", region, err, known)
			}
		}
	}
}

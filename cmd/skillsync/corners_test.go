package main

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"skillsync/genesys"
	"skillsync/genesys/sandbox"
	"skillsync/queue"
)

// The corners in which the usual tools fail.

func TestASkillThatAppearsTwoSecondsAfterThePatchIsPatchedOnceEvenIfPolled(t *testing.T) {
	t.Parallel()
	for _, profile := range []string{sandbox.RoutingSkills, sandbox.CustomAttributes} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			cfg := sandbox.Org(20)
			cfg.Serve, cfg.ReadLag = profile, 2*time.Second
			r := newRig(t, cfg)
			r.start(nil)
			r.publish(1, 20, "Support-Tier2")
			wantCount(t, r.settle(time.Minute), map[string]int{"verified": 20})
			r.wantOnePatchEach(20)
		})
	}
}

func TestATokenRevokedInMidRunCostsOneNewTokenAndNoRecord(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Org(200))
	transport := patchTogether(t, r.sandbox.RevokeTokens) // so that they all carry the old token
	r.start(func(f *fleet) {
		f.client.Profile, f.client.Transport = genesys.RoutingSkills, transport
	})
	r.publish(1, 200, "Billing")
	wantCount(t, r.settle(time.Minute), map[string]int{"verified": 200})
	if n := r.sandbox.Stats().Tokens; n != 2 {
		t.Errorf("%d tokens were issued; one is revoked, one replaces it", n)
	}
	if n := r.sandbox.Stats().ByStatus[http.StatusUnauthorized]; n < together {
		t.Errorf("%d requests met the revoked token, want %d at least", n, together)
	}
	r.wantOnePatchEach(200)
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// together is how many patches patchTogether holds back: of 64 requests at once, since the others
// have to get records as far as their patch.
const together = 60

// patchTogether holds patches back until enough have come, does what is to be done then, and lets
// them go at once, however slow the machine is.
func patchTogether(t *testing.T, do func()) http.RoundTripper {
	inner := &http.Transport{MaxIdleConnsPerHost: 64}
	t.Cleanup(inner.CloseIdleConnections)
	var patches atomic.Int32
	enough := make(chan struct{})
	return roundTripper(func(q *http.Request) (*http.Response, error) {
		if q.Method == http.MethodPatch {
			if patches.Add(1) == together {
				do()
				close(enough)
			}
			<-enough
		}
		return inner.RoundTrip(q)
	})
}

func TestAServersOwnLimitIsHonouredWhereNoneIsSetHere(t *testing.T) {
	t.Parallel()
	cfg := sandbox.Org(100)
	cfg.LimitPerSecond = together - 10
	r := newRig(t, cfg)
	transport := patchTogether(t, func() {})
	for range 2 {
		r.start(func(f *fleet) { f.client.Transport = transport })
	}
	r.publish(1, 100, "Sales")
	wantCount(t, r.settle(90*time.Second), map[string]int{"verified": 100})
	if r.sandbox.Stats().Refused429 == 0 {
		t.Error("the server refused nothing: nothing was tested")
	}
	r.wantOnePatchEach(100)
}

func TestAPatchAnswered200ThatStoredNothingIsNotVerified(t *testing.T) {
	t.Parallel()
	cfg := sandbox.Org(3)
	cfg.Users[1].Drop = true
	r := newRig(t, cfg)
	r.start(func(f *fleet) {
		f.worker.Attempts, f.worker.Provisioner.Deadline = 2, time.Second
	})
	r.publish(1, 3, "Sales")
	wantCount(t, r.settle(time.Minute), map[string]int{"verified": 2, "unverified": 1})
	page, _, err := r.broker.DeadLetters().List(t.Context(), queue.Filter{Reason: "unverified"}, 0, 10)
	if err != nil || len(page) != 1 || page[0].EmployeeID != "EMP-0002" {
		t.Fatalf("dead letters %+v, %v", page, err)
	}
	if string(page[0].Expected) != `[{"name":"Sales","proficiency":4}]` || string(page[0].Actual) != `[]` {
		t.Errorf("expected %s, actual %s", page[0].Expected, page[0].Actual)
	}
}

func TestSIGTERMToOneOfTwoWorkersRepeatsNoPatch(t *testing.T) {
	t.Parallel()
	cfg := sandbox.Org(100)
	cfg.ReadLag = time.Second // so that there are records between patch and verification
	r := newRig(t, cfg)
	stop := r.start(func(f *fleet) { f.worker.Provisioner.Settle = 500 * time.Millisecond })
	r.start(func(f *fleet) { f.worker.Provisioner.Settle = 500 * time.Millisecond })
	r.publish(1, 100, "Billing")
	settled(t, r.broker, 1, time.Minute, nil)
	began := time.Now()
	stop()
	if took := time.Since(began); took > 7*time.Second {
		t.Errorf("the drain took %s; the grace is 5 s", took)
	}
	wantCount(t, r.settle(time.Minute), map[string]int{"verified": 100})
	r.wantOnePatchEach(100)
}

func TestAutoFindsTheProfileOfAServerThatSpeaksOnlyOneContract(t *testing.T) {
	t.Parallel()
	for _, profile := range []string{sandbox.CustomAttributes, sandbox.RoutingSkills} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			cfg := sandbox.Org(50)
			cfg.Serve = profile
			r := newRig(t, cfg)
			var found *fleet
			r.start(func(f *fleet) { found = f })
			r.publish(1, 50, "Support-Tier2")
			wantCount(t, r.settle(time.Minute), map[string]int{"verified": 50})
			if got := string(found.worker.Provisioner.Profile); got != profile {
				t.Errorf("found %s", got)
			}
			for i := 1; i <= 50; i++ {
				u, _ := r.sandbox.User(fmt.Sprintf("EMP-%04d", i))
				if s := fmt.Sprint(u.Skills); !strings.Contains(s, "{Tier 2 Support 4}") {
					t.Errorf("%s has %s", u.ExternalID, s)
				}
				if hand := i%7 == 0; hand != strings.Contains(fmt.Sprint(u.Skills), "Spanish") {
					t.Errorf("%s: the skill made by hand: %v", u.ExternalID, u.Skills)
				}
			}
			r.publish(1, 50, "Billing") // changed, and back to unchanged
			r.publish(1, 50, "Billing")
			r.settle(time.Minute)
			if u, _ := r.sandbox.User("EMP-0007"); fmt.Sprint(u.Skills) != "[{Billing 4} {Spanish 3}]" {
				t.Errorf("EMP-0007 has %v", u.Skills)
			}
		})
	}
}

// Each fault of the sandbox in the middle of a run: whatever happens, every record is verified.
func TestEveryPassingFaultOfTheOrgIsRiddenOut(t *testing.T) {
	t.Parallel()
	for _, fault := range []string{
		"patch:reset-before:times=3:after=5", "patch:reset-after:times=3:after=5", "patch:500:times=3:after=2", "patch:html:times=2",
		"patch:503:retry-after=1:times=2", "patch:504:times=2", "patch:408:times=2", "patch:409:times=3",
		"patch:stale:form=400:times=3", "patch:stale:form=409:times=3", "patch:stale:form=412:times=3",
		"patch:429:retry-after=1:times=2", "read:429:retry-after=1:times=2:after=1", "find:429:retry-after=1:times=2",
		"read:500:times=2:after=1", "read:html:times=2:after=1", "read:reset-after:times=2:after=1", "read:slow:for=300ms:times=3",
		"read_batch:expand:times=4", "read_batch:missing:times=4", "find:503:times=3", "find:reset-before:times=3",
		"token:500:times=1", "schemas:500:times=1", "any:revoke:times=1:after=30",
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			f, err := sandbox.ParseFault(fault)
			if err != nil {
				t.Fatal(err)
			}
			r := newRig(t, sandbox.Org(40))
			r.sandbox.Inject(f)
			r.start(nil)
			r.publish(1, 40, "Support-Tier2")
			got := count(r.settle(2 * time.Minute))
			if got["verified"]+got["unchanged"] != 40 { // unchanged: the reply to the patch was lost, and a read found it done
				t.Errorf("outcomes %v", got)
			}
			if faults := r.sandbox.Faults(); faults[0].Fired == 0 {
				t.Error("the fault never struck: nothing was tested")
			}
			for i := 1; i <= 40; i++ {
				u, _ := r.sandbox.User(fmt.Sprintf("EMP-%04d", i))
				if !strings.Contains(fmt.Sprint(u.Skills), "{Tier 2 Support 4}") {
					t.Errorf("%s has %v", u.ExternalID, u.Skills)
				}
			}
		})
	}
}

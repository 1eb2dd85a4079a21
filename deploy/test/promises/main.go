// Command promises looks from outside at a system that has been given records, and tells whether it
// has kept what it promises (section 1 of the design). compose.sh runs it.
//
//	promises settled N              waits until N records or more are settled
//	promises kept N LIMIT FILE MAP  checks N settled records of FILE, LIMIT requests a minute, mapping MAP
//
// It signs in to NATS_URL as NATS_USER with the password in NATS_PASSWORD, needs no more than an
// operator's permissions, and asks the sandbox at SANDBOX_URL.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"skillsync/queue"
	"skillsync/worker/employee"
	"skillsync/worker/mapping"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "promises:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 2 && len(args) != 5 {
		return errors.New("see the comment at the top of main.go")
	}
	records, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	user := os.Getenv("NATS_USER")
	b, err := queue.Connect(ctx, queue.Config{
		URL: os.Getenv("NATS_URL"), User: user, Password: os.Getenv("NATS_PASSWORD"), InboxPrefix: "_INBOX_" + user, Wait: 20 * time.Second,
	})
	if err != nil {
		return err
	}
	defer b.Close()
	if args[0] == "settled" {
		return settled(ctx, b, uint64(records))
	}
	limit, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	return kept(ctx, b, records, limit, args[3], args[4])
}

// settled waits for results.
func settled(ctx context.Context, b *queue.Broker, records uint64) error {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		once, cancel := context.WithTimeout(ctx, 10*time.Second)
		end, err := b.ResultsEnd(once)
		cancel()
		if err == nil && end >= records {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d records are settled, %w", end, records, errors.Join(err, ctx.Err()))
		}
	}
}

// kept checks all promises, and returns everything that is not kept.
func kept(ctx context.Context, b *queue.Broker, records, limit int, file, rules string) error {
	results, err := allResults(ctx, b)
	if err != nil {
		return err
	}
	status, err := emptied(ctx, b)
	if err != nil {
		return err
	}
	m, err := mapping.Load(rules)
	if err != nil {
		return err
	}
	newest, several, err := newestOf(file)
	if err != nil {
		return err
	}
	c := &check{ctx: ctx}
	c.nothingIsLost(results, status, records)
	c.limitHolds(limit)
	c.newerWins(results, m, newest, several)
	return errors.Join(c.broken...)
}

// emptied waits a little for the queue to be empty: the last acknowledgements come after the results.
func emptied(ctx context.Context, b *queue.Broker) (st queue.Status, err error) {
	for range 20 {
		if st, err = b.Status(ctx); err != nil || st.Backlog == 0 {
			return st, err
		}
		time.Sleep(500 * time.Millisecond)
	}
	return st, nil // which is told with all the rest
}

func allResults(ctx context.Context, b *queue.Broker) (all []queue.Result, err error) {
	for before := uint64(0); ; {
		page, next, err := b.Recent(ctx, "", before, 500)
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		if next == 0 {
			return all, nil
		}
		before = next
	}
}

// newestOf reads the newest record of every employee in a file, and tells who has several. Rows that
// are no records were not published.
func newestOf(file string) (newest map[string]employee.Record, several map[string]bool, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	newest, several = map[string]employee.Record{}, map[string]bool{}
	for row, err := range employee.ReadRows(f, employee.FormatOf(file)) {
		if err != nil {
			return nil, nil, err
		}
		if row.Err != nil {
			continue
		}
		rec, err := employee.Decode(row.Data)
		if err != nil {
			return nil, nil, err
		}
		last, again := newest[rec.ID]
		several[rec.ID] = again
		if !again || rec.UpdatedAt.After(last.UpdatedAt) {
			newest[rec.ID] = rec
		}
	}
	return newest, several, nil
}

// A check gathers what is not kept.
type check struct {
	ctx    context.Context // one short run
	broken []error
}

func (c *check) failf(format string, args ...any) {
	c.broken = append(c.broken, fmt.Errorf(format, args...))
}

func (c *check) nothingIsLost(results []queue.Result, st queue.Status, records int) {
	times := map[uint64]int{}
	outcomes := map[string]int{}
	for _, r := range results {
		times[r.Sequence]++
		outcomes[r.Outcome]++
	}
	for seq := uint64(1); seq <= uint64(records); seq++ {
		if times[seq] != 1 {
			c.failf("record %d has %d outcomes", seq, times[seq])
		}
	}
	if len(times) != records {
		c.failf("%d records have outcomes, and %d were published", len(times), records)
	}
	letters := uint64(0)
	for _, n := range st.Dead {
		letters += n
	}
	if st.Backlog != 0 || letters != uint64(outcomes[queue.OutcomeDead]) {
		c.failf("%d records wait, %d dead letters, outcomes %v", st.Backlog, letters, outcomes)
	}
	fmt.Printf("each of %d records has one outcome: %v\n", len(times), outcomes)
}

func (c *check) limitHolds(limit int) {
	var s struct {
		Requests int `json:"requests"`
		Refused  int `json:"refused_429"`
		Window   int `json:"max_window_60s"`
	}
	if err := c.ask("stats", &s); err != nil {
		c.failf("%w", err)
		return
	}
	if s.Refused != 0 || s.Window > limit || s.Requests == 0 {
		c.failf("%d requests, %d of them refused; %d in 60 seconds, and the limit is %d", s.Requests, s.Refused, s.Window, limit)
	}
	fmt.Printf("%d requests, at most %d in any 60 seconds of %d, %d refused\n", s.Requests, s.Window, limit, s.Refused)
}

// A user is one as the sandbox keeps it.
type user struct {
	Skills []struct {
		Name        string  `json:"name"`
		Proficiency float64 `json:"proficiency"`
	} `json:"skills"`
}

// newerWins compares everybody whose newest record was applied with what that record asks for.
func (c *check) newerWins(results []queue.Result, m *mapping.Mapping, newest map[string]employee.Record, several map[string]bool) {
	dead := map[string]bool{}
	for _, r := range results {
		dead[r.EmployeeID] = dead[r.EmployeeID] || r.Outcome == queue.OutcomeDead
	}
	right, twice := 0, 0
	for id, rec := range newest {
		if dead[id] {
			continue
		}
		var u user
		if err := c.ask("users/"+id, &u); err != nil {
			c.failf("%s: %w", id, err)
			continue
		}
		want, err := m.Desired(rec)
		if err != nil {
			c.failf("%s: %w", id, err)
			continue
		}
		if why := u.differs(m, want); why != "" {
			c.failf("%s: %s", id, why)
			continue
		}
		right++
		if several[id] {
			twice++
		}
	}
	if right == 0 || twice == 0 {
		c.failf("%d employees were compared, %d of them with several records: that proves nothing", right, twice)
	}
	fmt.Printf("%d employees have the skills of their newest record, %d of whom had several\n", right, twice)
}

// differs says what of a user's skills is not as wanted. The sandbox gives everybody Chat 3, by hand.
func (u user) differs(m *mapping.Mapping, want mapping.Desired) string {
	has := map[string]float64{}
	for _, s := range u.Skills {
		has[s.Name] = s.Proficiency
	}
	var wrong []string
	for _, s := range want.Skills {
		if has[s.Name] != s.Proficiency {
			wrong = append(wrong, fmt.Sprintf("%s is %v, should be %v", s.Name, has[s.Name], s.Proficiency))
		}
		delete(has, s.Name)
	}
	for _, owned := range m.Owned() {
		if _, still := has[owned]; still {
			wrong = append(wrong, owned+" is there still")
		}
	}
	if has["Chat"] != 3 {
		wrong = append(wrong, "Chat, which was set by hand, is gone")
	}
	slices.Sort(wrong)
	return strings.Join(wrong, "; ")
}

// ask asks the sandbox's control.
func (c *check) ask(what string, into any) error {
	req, err := http.NewRequestWithContext(c.ctx, http.MethodGet, os.Getenv("SANDBOX_URL")+"/_sandbox/"+what, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the sandbox answers %s", resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

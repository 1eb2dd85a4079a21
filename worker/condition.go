package worker

import "sync/atomic"

// A condition is why the worker is not ready; empty when it is.
type condition struct{ why atomic.Pointer[string] }

// set tells whether that is news: whether there was no trouble before.
func (c *condition) set(why string) (news bool) {
	old := c.why.Swap(&why)
	return why != "" && (old == nil || *old == "")
}

func (c *condition) get() string {
	if why := c.why.Load(); why != nil {
		return *why
	}
	return "starting"
}

package main

import (
	"fmt"
	"time"

	"skillsync/queue"
	"skillsync/worker"
	"skillsync/worker/employee"
	"skillsync/worker/mapping"
)

// deskRules are the mapping and the record's form, as the desk asks for them. m is nil for commands
// that need neither.
type deskRules struct{ m *mapping.Mapping }

func (deskRules) Read(data []byte) (employeeID, version string, err error) {
	rec, err := employee.Decode(data)
	if err != nil {
		return "", "", err
	}
	if rec.HasVersion {
		version = fmt.Sprintf("version %d ", rec.Version)
	}
	if !rec.UpdatedAt.IsZero() {
		version += rec.UpdatedAt.Format(time.RFC3339Nano)
	}
	return rec.ID, version, nil
}

func (r deskRules) Map(data []byte) error {
	rec, err := employee.Decode(data)
	if err == nil {
		_, err = r.m.Desired(rec)
	}
	return err
}

func (r deskRules) Alters(d *queue.DeadLetter) bool { return worker.Alters(r.m, d) }

func (r deskRules) Version() string {
	if r.m == nil {
		return ""
	}
	return r.m.Version()
}

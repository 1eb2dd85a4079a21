package embedded

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// takeLock holds an exclusive lock until the file is closed, or the process ends in any way.
func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = lock(f, windows.LOCKFILE_EXCLUSIVE_LOCK)
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return nil, ErrLocked
	}
	return nil, err
}

func lockedByOther(f *os.File) bool {
	return errors.Is(lock(f, 0), windows.ERROR_LOCK_VIOLATION)
}

func lock(f *os.File, flags uint32) error {
	return windows.LockFileEx(windows.Handle(f.Fd()), flags|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, new(windows.Overlapped))
}
